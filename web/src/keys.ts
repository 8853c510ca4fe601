/**
 * Whether a key is part of the composition of a character (by an input method), and so not meant for the page.
 *
 * Safari ends the composition before it tells of the Enter that ended it: of that only the key code 229 speaks.
 */
export function isComposing(event: KeyboardEvent): boolean {
  return event.isComposing || event.keyCode === 229;
}
