// The part of the state that the address holds, after #: it can be shared, and back and forward move through it.

const listeners = [];

/** The address's values: model, tab, layer, index and so on. */
export function where() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

/** Changes values in the address; null removes one. `replace` leaves no step for the back button. */
export function go(changes, { replace = false } = {}) {
  const values = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) values.delete(name);
    else values.set(name, value);
  }
  const hash = `#${values.toString().replaceAll("%3A", ":").replaceAll("%2C", ",")}`;
  if (hash === (location.hash || "#")) return;
  history[replace ? "replaceState" : "pushState"](null, "", hash);
  tell();
}

/** Calls `listener` with the values after each change, by `go` or by the browser. */
export function follow(listener) {
  listeners.push(listener);
}

function tell() {
  for (const listener of listeners) listener(where());
}

addEventListener("popstate", tell);
