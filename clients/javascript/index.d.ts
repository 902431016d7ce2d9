/** Whatever goes wrong between this program and a Millrace. */
export class MillraceError extends Error {}

/** The server did not answer, or could not do it, as often as it was asked. */
export class Unreachable extends MillraceError {}

/** The server will not do it; `code` and `details` say why, as in its API. */
export class Refused extends MillraceError {
  readonly status: number;
  readonly code: string;
  readonly details: readonly Record<string, unknown>[];
}

/** The time is up and the run goes on. The same call with this key, or `runId` if it is known, finds it again. */
export class NotOver extends MillraceError {
  readonly runId: string | null;
  readonly idempotencyKey: string | null;
}

/** The script did not succeed: by its own error, its time limit, or because somebody cancelled it. */
export class ScriptFailed extends MillraceError {
  readonly runId: string;
  readonly status: FailedStatus;
  readonly code: string | null;
  /** Where in the script, if that is known. */
  readonly scriptStack: string | null;
}

export type FailedStatus = 'failed' | 'timed_out' | 'cancelled';

export interface ScriptError {
  readonly code: string | null;
  readonly message: string;
  readonly stack: string | null;
}

interface Ended<T> {
  readonly runId: string;
  readonly durationMs: number | null;
  /** What the script returned. Throws ScriptFailed when it did not succeed. */
  unwrap(): T;
}

export interface Succeeded<T> extends Ended<T> {
  readonly status: 'completed';
  readonly ok: true;
  readonly value: T;
  readonly error: null;
}

export interface Failed<T> extends Ended<T> {
  readonly status: FailedStatus;
  readonly ok: false;
  readonly value: null;
  readonly error: ScriptError;
}

/** The end of a run. Frozen. */
export type Result<T> = Succeeded<T> | Failed<T>;

export interface Patience {
  /** How long to wait, queueing and repeats included; the client's own timeout unless said. */
  timeoutMs?: number;
  /** Stops waiting, not the run. */
  signal?: AbortSignal;
}

export interface CallOptions<T> extends Patience {
  /** Makes the value of what the script returned, or throws. */
  parse?: (value: unknown) => T;
  /** The same key and input: the same run. One is made for each call unless said. */
  idempotencyKey?: string;
}

export interface SubmitOptions<T> extends CallOptions<T> {
  delaySeconds?: number;
  runAt?: Date | string;
  priority?: number;
  expiresAfter?: number;
  callbackUrl?: string;
  debounce?: { key: string; seconds: number };
}

export interface PublishOptions extends Patience {
  source?: string;
  subject?: string;
}

/** A run that was started. */
export interface Run<T> {
  readonly id: string;
  readonly script: string;
  /** Its end. Throws NotOver when it takes longer. */
  wait(patience?: Patience): Promise<Result<T>>;
  /** What the script returned. Throws ScriptFailed, and NotOver as `wait` does. */
  result(patience?: Patience): Promise<T>;
}

export interface ClientOptions {
  url: string;
  workspace: string;
  apiKey: string;
  timeoutMs?: number;
  fetch?: typeof fetch;
}

/** The scripts of one workspace. */
export class Client {
  constructor(options: ClientOptions);
  /** Run a script and wait for its end. A script that fails is a result. */
  call<T = unknown, I extends object = Record<string, unknown>>(
    script: string, input?: I, options?: CallOptions<T>,
  ): Promise<Result<T>>;
  /** Start a run and go on; it is durable once this returns. */
  submit<T = unknown, I extends object = Record<string, unknown>>(
    script: string, input?: I, options?: SubmitOptions<T>,
  ): Promise<Run<T>>;
  /** Publish an event; returns its id. */
  publish(event: string, data: unknown, options?: PublishOptions): Promise<string>;
}
