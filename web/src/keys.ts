/**
 * Whether a key press belongs to an input method and not to the page.
 *
 * Safari ends the composition before it sends the Enter that confirmed it: only the key code 229 shows that.
 */
export function isComposing(event: KeyboardEvent): boolean {
  return event.isComposing || event.keyCode === 229;
}
