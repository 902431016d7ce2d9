// Fetches rows from one API, changes their shape, and sends them on in batches.
const MAX_BULK = 25;

async function fetchSourceItems(source) {
  const response = await fetch(source, { headers: { Accept: 'application/json' } });
  if (!response.ok) {
    throw new Error(`Source fetch failed with status ${response.status}: ${await response.text()}`);
  }
  const posts = await response.json();
  return posts.map((post, index) => ({
    title: String(post.title || '').slice(0, 120) || `Post ${index + 1}`,
    body: post.body || '',
  }));
}

async function postBatch(destination, items, token) {
  const response = await fetch(destination, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: `Token ${token}` },
    body: JSON.stringify({ items }),
  });
  await response.arrayBuffer(); // read to the end, so that the connection can be used again
  return { ok: response.ok, status: response.status, itemCount: items.length };
}

function chunks(items, size) {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size));
}

exports.handler = async (payload, context) => {
  const token = context.secrets.DESTINATION_TOKEN;
  if (!token) {
    throw new Error('Missing required secret: DESTINATION_TOKEN');
  }
  const source = payload.source || 'https://jsonplaceholder.typicode.com/posts?_limit=50';
  const destination = payload.destination || 'https://httpbin.org/post';
  const size = Number.isInteger(payload.maxBulk) && payload.maxBulk > 0 ? payload.maxBulk : MAX_BULK;

  const items = await fetchSourceItems(source);
  const batches = chunks(items, size);
  const results = [];
  for (const [index, batch] of batches.entries()) {
    results.push({ batchNumber: index + 1, ...(await postBatch(destination, batch, token)) });
    console.log(`batch ${index + 1} of ${batches.length}: ${results.at(-1).status}`);
    if (context.isTimingOut()) break;
  }
  return {
    partial: results.length < batches.length,
    totalItems: items.length,
    batchSize: size,
    totalBatches: batches.length,
    successfulBatches: results.filter((each) => each.ok).length,
    failedBatches: results.filter((each) => !each.ok).length,
    results,
  };
};
