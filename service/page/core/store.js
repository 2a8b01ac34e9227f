// The state of the page, in one place. Views read it, and are told of changes.

export class Store {
  #state;
  #watchers = [];

  constructor(state) {
    this.#state = state;
  }

  get(name) {
    return this.#state[name];
  }

  /** Changes some values, and then tells whoever watches one that differs. */
  set(changes) {
    const changed = Object.keys(changes).filter((name) => this.#state[name] !== changes[name]);
    if (!changed.length) return;
    this.#state = { ...this.#state, ...changes };
    const concerned = this.#watchers.filter(({ names }) => names.some((name) => changed.includes(name)));
    for (const { tell } of concerned) tell(this.#state);
  }

  /** Runs `start`, and then tells what it watches as if everything had just changed: for views that come late. */
  late(start) {
    const before = this.#watchers.length;
    start();
    for (const { tell } of this.#watchers.slice(before)) tell(this.#state);
  }

  /** Calls `tell` with the state after each change of one of the values. */
  watch(names, tell) {
    this.#watchers.push({ names, tell });
  }
}
