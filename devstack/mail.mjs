// Emails of Auth: nothing is sent, the link goes to the terminal of the stack. Used by lite.mjs.

import { AsyncLocalStorage } from "node:async_hooks";

const LINK = /https?:\/\/\S+\/verify\?\S+/;

/**
 * Returns a driver for Lite's mailer that calls `deliver({to, subject, link})`, and middleware for Lite's Auth. Lite's
 * links lead back to the site's URL; GoTrue's lead to the request's `redirect_to`. The verify endpoint checks it.
 */
export function mailbox(deliver) {
  const redirectTo = new AsyncLocalStorage();
  return {
    middleware: (context, next) => redirectTo.run(context.req.query("redirect_to"), next),
    driver: {
      async send({ to, subject, text }) {
        const link = LINK.exec(text)?.[0];
        const wanted = redirectTo.getStore();
        if (!link || !wanted) return deliver({ to, subject, link: link ?? text });
        const url = new URL(link);
        url.searchParams.set("redirect_to", wanted);
        deliver({ to, subject, link: url.href });
      },
    },
  };
}
