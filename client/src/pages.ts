/**
 * Reads lists to their end. PostgREST returns at most `max-rows` rows per response, a setting that clients cannot see, and
 * says nothing about those it leaves out.
 */

/** The most rows that one request asks for. */
export const MAX_ROWS = 1_000;

/** A query for rows, in any order. */
export interface Rows<Query> {
  order(column: string, options: { ascending: boolean }): Rows<Query> & Query;
  limit(count: number): Rows<Query> & Query;
  gt(column: string, value: unknown): Rows<Query> & Query;
  lt(column: string, value: unknown): Rows<Query> & Query;
}

export interface Wanted {
  /** A column that no two rows share, and no row changes: `id` by default. */
  by?: string;
  /** False by default. */
  descending?: boolean;
  /** Leaves out the rows up to this value of the column. */
  after?: unknown;
  /** No row comes after this value of the column. */
  last?: unknown;
  /** The number of rows wanted: all by default. */
  most?: number;
}

/** Sends a query. Throws `RequestError`. */
export type Send<Query> = <Row>(query: Query) => Promise<Row[]>;

/** The most rows that a response of a server has had: one with fewer is not cut. */
const largest = new WeakMap<object, number>();

/** Reads the rows of a query, which `select` makes for each page. `server`: an object that stands for it. */
export async function readAll<Query, Row>(
  server: object,
  send: Send<Query>,
  select: () => Rows<Query>,
  { by = "id", descending, after, last, most = Infinity }: Wanted = {},
): Promise<Row[]> {
  const rows: Row[] = [];
  while (rows.length < most) {
    const limit = Math.min(most - rows.length, MAX_ROWS);
    let query = select().order(by, { ascending: !descending }).limit(limit);
    if (after != null) query = query[descending ? "lt" : "gt"](by, after);
    const page = await send<Row & Record<string, unknown>>(query);
    const end = page[page.length - 1]?.[by];
    // the second: a server that ignores the order would be read for ever
    if (end === undefined || end === after) break;
    rows.push(...page);
    after = end;
    const uncut = largest.get(server) ?? 0;
    largest.set(server, Math.max(uncut, page.length));
    if (page.length < Math.min(uncut, limit) || end === last) break;
  }
  return rows;
}
