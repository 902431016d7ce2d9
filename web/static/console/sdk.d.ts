/** What started this execution. Members that do not apply are null. */
interface Trigger {
  readonly type: 'cron' | 'http' | 'event' | 'manual' | 'api';
  readonly eventType: string | null;
  readonly eventPayload: object | null;
  readonly httpRequest: { method: string; path: string; query: object; headers: object; body: any; rawBody: string } | null;
  readonly cronExpression: string | null;
}
interface HttpOptions {
  headers?: Record<string, string>;
  query?: Record<string, string | number | boolean>;
  /** Milliseconds, 10,000 unless said. */
  timeout?: number;
}
interface HttpResponse { status: number; headers: Record<string, string>; body: any }
interface Queries {
  /** Up to 1,000 rows of a SELECT. */
  query(sql: string, params?: any[]): Promise<any[]>;
  /** The first row of a SELECT, or null. */
  queryOne(sql: string, params?: any[]): Promise<any | null>;
  /** How many rows an INSERT, UPDATE or DELETE changed. */
  execute(sql: string, params?: any[]): Promise<number>;
}
interface Database extends Queries {
  /** All or nothing: committed when `work` is done, rolled back when it throws. */
  transaction(work: (tx: Queries) => Promise<void>): Promise<void>;
  /** Another data source of the workspace. */
  source(name: string): Database;
}
interface Cache {
  get(key: string): Promise<any | null>;
  /** `ttl` in seconds; without it the value stays. */
  set(key: string, value: any, ttl?: number): Promise<boolean>;
  delete(key: string): Promise<boolean>;
  exists(key: string): Promise<boolean>;
  increment(key: string, delta?: number): Promise<number>;
  expire(key: string, ttl: number): Promise<boolean>;
}
interface Log {
  debug(message: string, metadata?: object): void;
  info(message: string, metadata?: object): void;
  warn(message: string, metadata?: object): void;
  error(message: string, metadata?: object): void;
}
interface Events {
  /** A fact for the workspace's scripts, as `order.invoice.created`. */
  publish(eventType: string, payload: object): Promise<boolean>;
}
declare const context: {
  readonly tenantId: string; readonly userId: number | null; readonly organizationId: string | null;
  readonly scriptId: string; readonly executionId: string; readonly input: any; readonly trigger: Trigger;
};
declare const sdk: {
  readonly http: {
    get(url: string, options?: HttpOptions): Promise<HttpResponse>;
    post(url: string, body?: any, options?: HttpOptions): Promise<HttpResponse>;
    put(url: string, body?: any, options?: HttpOptions): Promise<HttpResponse>;
    patch(url: string, body?: any, options?: HttpOptions): Promise<HttpResponse>;
    delete(url: string, options?: HttpOptions): Promise<HttpResponse>;
  };
  readonly db: Database; readonly cache: Cache; readonly log: Log; readonly events: Events;
};
declare const events: Events;
declare const exports: any;
declare const module: { exports: any };
declare function require(name: string): any;
declare const console: { log(...values: any[]): void; debug(...values: any[]): void; info(...values: any[]): void; warn(...values: any[]): void; error(...values: any[]): void };
