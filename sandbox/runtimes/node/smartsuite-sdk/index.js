'use strict';

const { Applications, Solutions } = require('./lib/catalog.js');
const { Connection } = require('./lib/connection.js');
const { SmartSuiteError } = require('./lib/error.js');
const { Records } = require('./lib/records.js');
const { version } = require('./package.json');

/**
 * A client of one SmartSuite workspace.
 *
 * apiKey, accountId: as in SmartSuite's API documentation; the account id is the 8 characters after
 *   https://app.smartsuite.com/ in the address of the workspace.
 * baseUrl: https://app.smartsuite.com unless you say otherwise.
 * timeout: milliseconds for one request, 30,000 unless you say otherwise.
 * maxRetries, maxRetryDelay: how often a request that was answered with 429 is sent again (3), and the longest
 *   wait before that, in milliseconds (30,000). If SmartSuite asks for a longer wait, the request fails at once.
 */
class SmartSuite {
  constructor(options) {
    const connection = new Connection(options);
    this.records = new Records(connection);
    this.applications = new Applications(connection);
    this.solutions = new Solutions(connection);
  }
}

module.exports = { SmartSuite, SmartSuiteError, version };
