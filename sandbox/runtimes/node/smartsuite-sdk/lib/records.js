'use strict';

const { segment } = require('./connection.js');

const PAGE = 100;
const LARGEST_PAGE = 1_000;
const LARGEST_BULK = 25;

/** The records of applications. Every method takes the application's id first. */
class Records {
  #connection;

  constructor(connection) {
    this.#connection = connection;
  }

  /**
   * One page: { items, total, offset, limit }. `sort` is [{ field, direction }], `filter` is
   * { operator: 'and' | 'or', fields: [{ field, comparison, value }] }, `hydrated` adds labels to ids,
   * `all` includes deleted records. SmartSuite gives at most 1,000 records a page.
   */
  list(applicationId, { sort = [], filter = {}, hydrated = false, limit = PAGE, offset = 0, all } = {}) {
    pageSize('limit', limit);
    return this.#connection.send('POST', `${path(applicationId)}/list/`, {
      query: { offset, limit, all },
      body: { sort: [sort].flat(), filter, hydrated },
    });
  }

  /** Every record, page by page as they are asked for: for await (const record of records.iterate(id)) { ... } */
  async *iterate(applicationId, { pageSize: size = PAGE, offset = 0, ...options } = {}) {
    pageSize('pageSize', size);
    for (let next = offset; ; ) {
      const page = await this.list(applicationId, { ...options, limit: size, offset: next });
      yield* page.items;
      next += page.items.length;
      if (page.items.length === 0 || page.items.length < Math.min(size, page.limit || size)) return;
    }
  }

  get(applicationId, recordId) {
    return this.#connection.send('GET', one(applicationId, recordId));
  }

  create(applicationId, record) {
    return this.#connection.send('POST', `${path(applicationId)}/`, { body: record });
  }

  /** Replaces the record: fields that are not given are cleared. See patch(). */
  update(applicationId, recordId, record) {
    return this.#connection.send('PUT', one(applicationId, recordId), { body: record });
  }

  /** Changes the given fields and leaves the others. */
  patch(applicationId, recordId, fields) {
    return this.#connection.send('PATCH', one(applicationId, recordId), { body: fields });
  }

  delete(applicationId, recordId) {
    return this.#connection.send('DELETE', one(applicationId, recordId));
  }

  /** Creates any number of records, 25 a request, and returns them in order. */
  bulkCreate(applicationId, records) {
    return this.#inChunks('POST', `${path(applicationId)}/bulk/`, records);
  }

  /** Changes fields of any number of records, 25 a request; each needs its `id`. */
  bulkUpdate(applicationId, records) {
    return this.#inChunks('PATCH', `${path(applicationId)}/bulk/`, records);
  }

  /** Deletes any number of records by id, 25 a request. */
  bulkDelete(applicationId, recordIds) {
    return this.#inChunks('PATCH', `${path(applicationId)}/bulk_delete/`, recordIds, { fields: 'id' });
  }

  async #inChunks(method, url, items, query) {
    if (!Array.isArray(items)) throw new TypeError('SmartSuite: a bulk operation takes an array');
    const completed = [];
    for (let start = 0; start < items.length; start += LARGEST_BULK) {
      const body = { items: items.slice(start, start + LARGEST_BULK) };
      try {
        completed.push(...((await this.#connection.send(method, url, { query, body })) ?? []));
      } catch (error) {
        error.completed = completed;
        throw error;
      }
    }
    return completed;
  }
}

function path(applicationId) {
  return `/applications/${segment('applicationId', applicationId)}/records`;
}

function one(applicationId, recordId) {
  return `${path(applicationId)}/${segment('recordId', recordId)}/`;
}

function pageSize(name, value) {
  if (!Number.isSafeInteger(value) || value < 1 || value > LARGEST_PAGE) {
    throw new RangeError(`SmartSuite: ${name} must be from 1 to ${LARGEST_PAGE}, not ${String(value)}`);
  }
}

module.exports = { Records };
