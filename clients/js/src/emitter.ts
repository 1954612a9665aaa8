// Typed events. An exception in one listener does not affect the others.

export class Emitter<Events> {
  #listeners = new Map<keyof Events, Set<(event: any) => void>>();

  /** Calls `listener` at each event of that name. Returns a function that removes it. */
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
        // Reported as an uncaught error, without interrupting the caller.
        queueMicrotask(() => { throw error; });
      }
    }
  }

  /** @internal */
  has(name: keyof Events): boolean {
    return !!this.#listeners.get(name)?.size;
  }
}
