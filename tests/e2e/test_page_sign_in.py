"""Signing in and up, forgotten passwords, and the links of emails."""

from __future__ import annotations

import uuid

import pytest
from playwright.async_api import BrowserContext, Route, expect

from devstack.stack import Stack
from tests.e2e.tab import Tab
from tests.e2e.test_accessibility import violations
from tests.support.users import PASSWORD

EXPIRED = "#error=access_denied&error_code=otp_expired&error_description=Email+link+is+invalid+or+has+expired"


async def autocomplete(tab: Tab, label: str) -> str | None:
    return await tab.page.get_by_label(label).get_attribute("autocomplete")


def link_to(stack: Stack, email: str) -> str:
    """The link of the last email to this address."""
    return next(mail for mail in reversed(stack.mails) if f"email to {email}" in mail).rpartition(" ")[2]


async def ask_for_password(tab: Tab, email: str) -> str:
    """Ask for a new password. Returns what the page says."""
    await tab.press("Forgot your password?")
    await tab.page.get_by_label("Email").fill(email)
    await tab.page.get_by_label("Email").press("Enter")
    notice = tab.page.get_by_role("status")
    await expect(notice).to_be_visible()
    said = await notice.inner_text()
    await tab.press("Sign in")
    return said.replace(email, "…")


async def test_each_form_is_known_to_password_managers(tab: Tab) -> None:
    assert [await autocomplete(tab, "Email"), await autocomplete(tab, "Password")] == ["username", "current-password"]
    await tab.page.get_by_label("Email").fill("me@example.com")
    await tab.press("Sign up")
    assert [await autocomplete(tab, "Email"), await autocomplete(tab, "Password")] == ["username", "new-password"]
    await expect(tab.page.get_by_label("Email")).to_have_value("me@example.com")
    await expect(tab.page.get_by_text("At least 6 characters")).to_be_visible()
    await expect(tab.page.get_by_label("Password")).to_have_attribute("minlength", "6")
    await tab.press("Sign in")
    await expect(tab.page.get_by_label("Password")).not_to_have_attribute("minlength", "6")


async def test_enter_does_what_the_form_is_for(tab: Tab) -> None:
    email = f"{uuid.uuid4().hex[:10]}@example.com"
    await tab.press("Sign up")
    await tab.page.get_by_label("Email").fill(email)
    await tab.page.get_by_label("Password").fill(PASSWORD)
    await tab.page.get_by_label("Password").press("Enter")
    await expect(tab.box).to_be_visible()
    await tab.press("Sign out")
    await tab.page.get_by_label("Email").fill(email)
    await tab.page.get_by_label("Password").fill(PASSWORD)
    await tab.page.get_by_label("Password").press("Enter")
    await expect(tab.box).to_be_visible()


async def test_a_forgotten_password_is_replaced_by_the_link_of_an_email(stack: Stack, tab: Tab) -> None:
    email = await tab.sign_up()
    await tab.press("Sign out")
    unknown = await ask_for_password(tab, f"{uuid.uuid4().hex[:10]}@example.com")
    assert await ask_for_password(tab, email) == unknown
    link = link_to(stack, email)
    await tab.page.goto(link)
    heading = tab.page.get_by_role("heading", name="Choose a new password")
    await expect(heading).to_be_visible()
    assert "access_token" not in tab.page.url
    assert await autocomplete(tab, "New password") == "new-password"
    assert await violations(tab) == []
    await tab.page.get_by_label("New password").fill("another battery")
    await tab.page.get_by_label("New password").press("Enter")
    await expect(tab.box).to_be_visible()
    await tab.press("Sign out")

    await tab.sign_in(email)
    await expect(tab.page.get_by_role("alert")).to_have_text("Invalid login credentials")
    await tab.page.get_by_label("Password").fill("another battery")
    await tab.press("Sign in")
    await expect(tab.box).to_be_visible()
    await tab.press("Sign out")

    await tab.page.goto(link)  # again
    await expect(tab.page.get_by_role("alert")).to_contain_text("has expired or was used before")
    assert "error" not in tab.page.url
    await expect(heading).to_have_count(0)
    tab.problems.clear()  # the browser reports the rejected request


async def test_a_recovery_link_leaves_other_tabs_alone(stack: Stack, context: BrowserContext, tab: Tab) -> None:
    email = await tab.sign_up()
    await tab.press("Sign out")
    await ask_for_password(tab, email)
    await tab.sign_in(email)
    await expect(tab.box).to_be_visible()
    other = await Tab.open(context, tab.address)
    await other.box.fill("half a question")
    # the other tabs hear of it by this channel too
    await other.page.evaluate(
        """() => { window.heard = new Promise((resolve) => {
          const key = Object.keys(localStorage).find((name) => name.endsWith("-auth-token"));
          new BroadcastChannel(key).onmessage = ({ data }) => {
            if (data.event === "PASSWORD_RECOVERY") setTimeout(resolve);
          };
        }); }"""
    )
    await tab.page.goto("about:blank")
    await tab.page.goto(link_to(stack, email))
    heading = tab.page.get_by_role("heading", name="Choose a new password")
    await expect(heading).to_be_visible()
    await other.page.evaluate("window.heard")
    await expect(other.page.get_by_role("heading", name="Choose a new password")).to_have_count(0)
    await expect(other.box).to_have_value("half a question")
    await tab.press("Keep the old one")
    await expect(tab.box).to_be_visible()
    assert other.problems == []


async def test_a_late_answer_belongs_to_the_form_that_asked(tab: Tab) -> None:
    answers = await tab.hold("POST", "**/auth/v1/token?*")
    await tab.sign_in("nobody@example.com")
    await tab.press("Sign up")
    await expect(tab.page.get_by_role("heading", name="Create an account")).to_be_visible()
    async with tab.page.expect_response("**/auth/v1/token?*"):
        answers.set()
    await tab.page.get_by_label("Email").fill("somebody@example.com")
    await tab.page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    await expect(tab.page.get_by_role("alert")).to_have_count(0)
    await tab.press("Sign in")
    await expect(tab.page.get_by_label("Email")).to_have_value("somebody@example.com")
    await expect(tab.page.get_by_role("alert")).to_have_count(0)
    tab.problems.clear()  # the browser reports the rejected request


@pytest.mark.parametrize("signed_in", [False, True])
async def test_a_link_that_is_no_good_says_so_once(tab: Tab, signed_in: bool) -> None:
    if signed_in:
        await tab.sign_up()
    await tab.page.goto("about:blank")
    await tab.page.goto(tab.address + EXPIRED)
    await expect(tab.page.get_by_role("alert")).to_contain_text("This link has expired or was used before.")
    assert "#" not in tab.page.url
    assert await violations(tab) == []
    await expect(tab.box if signed_in else tab.page.get_by_label("Password")).to_be_visible()
    if signed_in:
        await tab.press("Close")
        await expect(tab.page.get_by_role("alert")).to_have_count(0)
    await tab.page.reload()
    await expect(tab.box if signed_in else tab.page.get_by_label("Password")).to_be_visible()
    await expect(tab.page.get_by_role("alert")).to_have_count(0)


async def test_a_sign_up_that_needs_a_confirmation_says_what_to_do(tab: Tab) -> None:
    resent: list[str] = []
    headers = {"access-control-allow-origin": "*"}

    async def answer(route: Route) -> None:
        if "/resend" in route.request.url:
            resent.append(route.request.url)
            await route.fulfill(json={}, headers=headers)
        elif "/signup" in route.request.url:
            await route.fulfill(json={"id": str(uuid.uuid4()), "email": "me@example.com"}, headers=headers)
        else:
            refused = {"code": 400, "error_code": "email_not_confirmed", "msg": "Email not confirmed"}
            await route.fulfill(status=400, json=refused, headers=headers)

    await tab.page.route("**/auth/v1/**", answer)
    await tab.press("Sign up")
    await tab.sign_in("me@example.com", "Sign up")
    await expect(tab.page.get_by_role("status")).to_contain_text("We have sent a link to me@example.com")
    await tab.press("Send the confirmation again")
    await expect(tab.page.get_by_role("status")).to_contain_text("We have sent another link to me@example.com")
    assert await violations(tab) == []
    await tab.press("Sign in")
    await tab.press("Sign in")
    await expect(tab.page.get_by_role("alert")).to_have_text("Email not confirmed")
    await tab.press("Send the confirmation again")
    await expect(tab.page.get_by_role("status")).to_contain_text("another link")
    assert len(resent) == 2
    tab.problems.clear()  # the browser reports the refused request


async def test_a_server_that_cannot_be_reached_is_named(tab: Tab) -> None:
    await tab.page.route("**/auth/v1/**", lambda route: route.abort())
    await tab.sign_in("me@example.com")
    await expect(tab.page.get_by_role("alert")).to_have_text("Could not reach the server.")
    tab.problems.clear()  # as above
