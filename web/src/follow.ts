/** How close to the end, in pixels, a reader must come for the log to follow the text again. */
const NEAR = 80;
/** Positions are rounded, so this close is at the end. */
const ROUNDING = 2;
const UP = ["ArrowUp", "PageUp", "Home"];

/**
 * Keeps a log scrolled to its end while text arrives, and leaves it alone while its reader is elsewhere.
 *
 * The browser scrolls too: where text shrinks, grows or is laid out late. Only a reader who scrolls up leaves the end,
 * and only one who scrolls down to it, or asks for it, returns.
 */
export class Follower {
  readonly #view: HTMLElement;
  readonly #text: HTMLElement;
  readonly #onAway: (away: boolean) => void;
  #following = true;
  /** Where the log is scrolled to, as far as is known. */
  #top = 0;
  /** Where its end was when it was last laid out. Text that arrived since is not on the screen yet. */
  #end = 0;
  #touch = 0;
  #first: HTMLElement | null = null;

  /** `onAway` is called with whether the reader is away from the end. */
  constructor(view: HTMLElement, text: HTMLElement, onAway: (away: boolean) => void) {
    this.#view = view;
    this.#text = text;
    this.#onAway = onAway;
  }

  /** Starts. Returns a function that ends it. */
  start(): () => void {
    this.#set(true);
    const listeners = new AbortController();
    const options = { signal: listeners.signal, passive: true };
    this.#view.addEventListener("scroll", () => this.#scrolled(), options);
    // a slow page learns later that it was scrolled than that the reader wants it
    this.#view.addEventListener("wheel", ({ deltaX, deltaY }) => deltaY < -Math.abs(deltaX) && this.#leave(), options);
    this.#view.addEventListener("touchstart", ({ touches }) => (this.#touch = touches[0]!.clientY), options);
    this.#view.addEventListener("touchmove", ({ touches }) => this.#touched(touches[0]!.clientY), options);
    this.#view.addEventListener("keydown", ({ key }) => this.#pressed(key), options);
    this.#view.addEventListener("click", ({ target }) => this.#clicked(target), options);
    const observer = new ResizeObserver(() => this.#resized());
    observer.observe(this.#view);
    observer.observe(this.#text);
    return () => {
      observer.disconnect();
      listeners.abort();
    };
  }

  /** Scrolls to the end, and follows from there. */
  follow(): void {
    this.#set(true);
    this.#toEnd();
  }

  /** Keeps the place if `first` is now the first message, and others were before. */
  prepended(first: HTMLElement | null): void {
    const before = this.#first;
    this.#first = first;
    if (this.#following || before === first || !before?.isConnected || first === null) return;
    // elsewhere the browser keeps the place
    if (this.#view.scrollTop > 0 && CSS.supports("overflow-anchor", "auto")) return;
    this.#view.scrollTop += before.offsetTop - first.offsetTop;
    this.#top = this.#view.scrollTop;
  }

  #scrolled(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.#view;
    if (clientHeight === 0) return; // hidden
    const end = scrollHeight - clientHeight;
    if (this.#isLeft(scrollTop, end)) this.#set(false);
    else if (scrollTop > this.#top && Math.min(end, this.#end) - scrollTop < NEAR) this.#set(true);
    this.#top = scrollTop;
    this.#tell(end);
  }

  /** Text grew, shrank or was laid out for the first time, or the log did, as above an on-screen keyboard. */
  #resized(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.#view;
    if (clientHeight === 0) return;
    const end = scrollHeight - clientHeight;
    if (this.#isLeft(scrollTop, end)) this.#set(false);
    else if (end - scrollTop <= ROUNDING) this.#set(true);
    if (this.#following) this.#toEnd();
    else this.#top = scrollTop;
    this.#end = end;
    this.#tell(end);
  }

  /** Whether the reader scrolled up. At the end, it was the text that shrank. */
  #isLeft(top: number, end: number): boolean {
    return top < this.#top && end - top > ROUNDING;
  }

  #pressed(key: string): void {
    if (UP.includes(key)) this.#leave();
    else if (key === "End") this.follow();
  }

  /** What is unfolded is read from its beginning. */
  #clicked(target: EventTarget | null): void {
    if (target instanceof Element && target.closest("summary, [aria-expanded]") !== null) this.#set(false);
  }

  #touched(y: number): void {
    if (y > this.#touch) this.#leave();
    this.#touch = y;
  }

  /** The reader is about to scroll up. */
  #leave(): void {
    if (this.#view.scrollTop > 0) this.#set(false);
  }

  #toEnd(): void {
    this.#view.scrollTop = this.#view.scrollHeight;
    this.#top = this.#view.scrollTop;
    this.#end = this.#top;
    this.#tell(this.#end);
  }

  #set(following: boolean): void {
    this.#following = following;
    // elsewhere the browser keeps what is read in its place
    this.#view.style.overflowAnchor = following ? "none" : "auto";
  }

  #tell(end: number): void {
    this.#onAway(!this.#following && end - this.#top > NEAR);
  }
}
