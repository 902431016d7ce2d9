// A webhook for GitHub: Millrace has checked the signature before this runs, and a repeated delivery runs once.
exports.handler = async (request) => {
  const event = request.headers['x-github-event'];
  if (event === 'ping') {
    return { statusCode: 200, body: { pong: request.body.zen } };
  }
  console.log(`${event} in ${request.body.repository?.full_name}`);
  return { statusCode: 202, headers: { 'X-Handled': String(event) }, body: { accepted: event } };
};
