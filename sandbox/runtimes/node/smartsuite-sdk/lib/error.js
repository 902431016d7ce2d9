'use strict';

const SHOWN = 500;

/**
 * SmartSuite said no. `status` is the HTTP status, `body` the answer (parsed when it is JSON), `method` and `path`
 * the request. `retryAfter` is the wait in milliseconds that a 429 asked for, if it did. `completed` holds what a
 * bulk operation had done before it failed.
 */
class SmartSuiteError extends Error {
  constructor({ status, body, method, path, retryAfter }) {
    super(`SmartSuite answered ${status} to ${method} ${path}: ${summary(body)}`);
    this.name = 'SmartSuiteError';
    this.status = status;
    this.body = body;
    this.method = method;
    this.path = path;
    if (retryAfter !== undefined) this.retryAfter = retryAfter;
  }
}

function summary(body) {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  return text.length > SHOWN ? `${text.slice(0, SHOWN)}...` : text || 'no details';
}

module.exports = { SmartSuiteError };
