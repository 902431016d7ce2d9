// Runs every day: reads records from SmartSuite page by page, and stops in good time when the run gets long,
// saying where the next one should go on.
const { SmartSuite } = require('smartsuite-sdk');

exports.handler = async (payload, context) => {
  const { SMARTSUITE_API_KEY, SMARTSUITE_ACCOUNT_ID } = context.secrets;
  if (!SMARTSUITE_API_KEY || !SMARTSUITE_ACCOUNT_ID) {
    throw new Error('Missing required secrets: SMARTSUITE_API_KEY and SMARTSUITE_ACCOUNT_ID');
  }
  const client = new SmartSuite({
    apiKey: SMARTSUITE_API_KEY,
    accountId: SMARTSUITE_ACCOUNT_ID,
    baseUrl: payload.service,
  });
  const application = payload.application || 'orders';
  const pageSize = payload.pageSize || 100;

  let offset = payload.offset || 0;
  let open = 0;
  for (;;) {
    const page = await client.records.list(application, { limit: pageSize, offset });
    open += page.items.filter((record) => record.status !== 'done').length;
    offset += page.items.length;
    console.info(`read ${offset} of ${page.total}`);
    if (offset >= page.total || page.items.length === 0) {
      return { partial: false, records: offset, open };
    }
    if (context.isTimingOut()) {
      console.warn(`stopping early with ${context.getRemainingTimeMs()} ms left`);
      return { partial: true, records: offset, open, next: { offset } };
    }
  }
};
