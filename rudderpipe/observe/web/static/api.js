// The calls to the server. All addresses are relative, because the page may be mounted below a path.

const PATIENCE_MS = 8000;

export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

export const sentence = (error) =>
  error.status ? error.message : 'The server does not respond. Look again before you repeat it.';

async function call(path, options, patienceMs) {
  const timeout = AbortSignal.timeout(patienceMs);
  const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout;
  const response = await fetch(path, { cache: 'no-store', credentials: 'same-origin', ...options, signal });
  if (response.ok || response.status === 304) return response;
  const said = await response.json().catch(() => ({}));
  throw new Refused(response.status, said.error || `The server responded with status ${response.status}.`);
}

export async function get(path, patienceMs = PATIENCE_MS) {
  return json(await call(path, {}, patienceMs));
}

// Return null when nothing has changed since the response with this ETag.
export async function getChanged(path, etag, signal) {
  const response = await call(path, { signal, headers: etag ? { 'if-none-match': etag } : {} }, PATIENCE_MS);
  return response.status === 304 ? null : { body: await json(response), etag: response.headers.get('etag') };
}

export async function post(path, body) {
  const headers = { 'content-type': 'application/json' };
  const response = await call(path, { method: 'POST', headers, body: JSON.stringify(body) }, 60_000);
  return response.status === 204 ? null : json(response);
}

// Behind somebody's own login, its page comes instead of JSON when that login has ended.
async function json(response) {
  if (!(response.headers.get('content-type') || '').includes('json')) {
    throw new Refused(
      response.status,
      'The response is not from rudderpipe. Your login may have ended: load the page again.',
    );
  }
  return response.json();
}
