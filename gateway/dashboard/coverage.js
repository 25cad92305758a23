// How far the page has read one list of the gateway: from its newest task down to the oldest one, and the gaps between.
// Pure: it says which page of the list to request next, and takes the answer.

const MOST_GAPS = 10;

export const createdMs = (task) => task.extensions.created_ms;
export const newestFirst = (a, b) => createdMs(b) - createdMs(a) || (a.task_id < b.task_id ? 1 : -1) * Number(a.task_id !== b.task_id);

export class Coverage {
  #newest = null; // the first task of the list, as far as it is known
  #gaps = []; // {cursor, until}: tasks that came faster than the first page shows
  #tail = null; // the cursor behind the oldest task; null at the end of the list
  oldest = null; // the last task that was read
  hasBegun = false;
  isCut = false; // the page has forgotten older ones, because there were too many

  // `query` is {}, {state} or {label}, with or without {scope}: what the gateway selects by.
  constructor(query) {
    this.query = query;
  }

  // Whether all tasks of the list are known.
  get isAtEnd() {
    return this.hasBegun && this.#tail === null && !this.isCut;
  }

  get hasGap() {
    return this.#gaps.length > 0;
  }

  // Whether the list is read down to this task.
  reaches(task) {
    return this.hasBegun && (this.isAtEnd || (this.oldest !== null && newestFirst(task, this.oldest) <= 0));
  }

  // Whether the list is read back to this time.
  isBackTo(ms) {
    return this.isAtEnd || (this.oldest !== null && createdMs(this.oldest) < ms);
  }

  // The creation of the oldest task that was read, if the list is not read back to this time; else null.
  gapBefore(ms) {
    return this.hasBegun && this.oldest !== null && !this.isBackTo(ms) ? createdMs(this.oldest) : null;
  }

  // The creation of the oldest task of the whole list, if that is known, and after this time; else null.
  beginningAfter(ms) {
    return this.isAtEnd && this.oldest !== null && createdMs(this.oldest) > ms ? createdMs(this.oldest) : null;
  }

  // The cursor of the page to read next, of a gap first; null if there is none.
  get cursor() {
    return this.#gaps.at(-1)?.cursor ?? this.#tail;
  }

  takeHead({ items, next_cursor: cursor }) {
    const last = items.at(-1) ?? null;
    if (!this.hasBegun || cursor === null || this.#gaps.length >= MOST_GAPS) this.#beginAt(last, cursor);
    else if (this.#isAbove(last, this.#newest)) this.#gaps.push({ cursor, until: this.#newest });
    this.#newest = items[0] ?? this.#newest;
  }

  // Takes the page behind `cursor`.
  takeNext({ items, next_cursor: cursor }) {
    const last = items.at(-1) ?? null;
    const gap = this.#gaps.pop();
    if (gap && cursor !== null && this.#isAbove(last, gap.until)) this.#gaps.push({ cursor, until: gap.until });
    if (gap) return;
    this.#tail = cursor;
    this.oldest = last ?? this.oldest;
  }

  // The page has forgotten what is older than `kept`.
  cut(kept) {
    if (!this.hasBegun || !this.oldest || newestFirst(kept, this.oldest) >= 0) return;
    [this.oldest, this.#tail, this.#gaps, this.isCut] = [kept, null, [], true];
  }

  #beginAt(last, cursor) {
    [this.hasBegun, this.isCut, this.#gaps, this.#tail, this.oldest] = [true, false, [], cursor, last];
  }

  // A page without tasks has only malformed records: what follows is not known.
  #isAbove(last, known) {
    return known !== null && (last === null || newestFirst(last, known) < 0);
  }
}
