// Typed events. A listener that throws harms nobody but itself.

export class Emitter<Events> {
  #listeners = new Map<keyof Events, Set<(event: any) => void>>();

  /** Calls `listener` at each event of that name; gives the function that takes it away again. */
  on<Name extends keyof Events>(name: Name, listener: (event: Events[Name]) => void): () => void {
    let set = this.#listeners.get(name);
    if (!set) this.#listeners.set(name, (set = new Set()));
    set.add(listener);
    return () => void set.delete(listener);
  }

  /** @internal */
  emit<Name extends keyof Events>(name: Name, event: Events[Name]): void {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(event);
      } catch (error) {
        // To whoever watches for uncaught errors, without breaking what is going on here.
        queueMicrotask(() => { throw error; });
      }
    }
  }

  /** @internal */
  has(name: keyof Events): boolean {
    return !!this.#listeners.get(name)?.size;
  }
}
