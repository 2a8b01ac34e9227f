// What the browser keeps, where it may: a page in a sandboxed frame has no storage.

/** The value of a key in "localStorage" or "sessionStorage"; null if there is none, or no storage. */
export function recall(storage, key) {
  try {
    return window[storage].getItem(key);
  } catch {
    return null;
  }
}

/** Keeps a value, if there is a storage. */
export function keep(storage, key, value) {
  try {
    window[storage].setItem(key, value);
  } catch {
    // it lasts as long as the page
  }
}
