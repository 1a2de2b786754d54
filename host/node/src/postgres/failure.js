// Failures, as the contract has them.

const RETRYABLE = ['unreachable', 'pool-exhausted', 'timed-out', 'disconnected'];

/** The longest message of a server that is passed on, in characters. */
const LONGEST = 2000;

/** A shorter password would be no secret, and its place would show. */
const SHORTEST_SECRET = 4;

/** Makes a failure that the server did not report. */
export function failure(kind, message, more = {}) {
  return { kind, sqlstate: undefined, retryable: RETRYABLE.includes(kind), outcomeUnknown: false, message, ...more };
}

/** Says whether a value is a failure of this kind of ours. */
export function isFailure(value) {
  return typeof value?.kind === 'string' && typeof value.outcomeUnknown === 'boolean';
}

/** Bounds a message that comes from the server, and makes it safe to print. */
function clean(message) {
  return Array.from(String(message)).slice(0, LONGEST).join('').replace(/\p{Cc}/gu, ' ');
}

function isOfServer(error) {
  return typeof error?.severity === 'string' && /^[0-9A-Z]{5}$/.test(error.code);
}

/** Makes the failure of a statement that was sent. */
export function ofStatement(error) {
  if (isFailure(error)) {
    return error;
  }
  if (!isOfServer(error)) {
    return failure('disconnected', `the connection broke: ${clean(error?.message ?? error)}`, { outcomeUnknown: true });
  }
  const { code, severity } = error;
  // The server ends the session after these.
  const isLast = severity === 'FATAL' || severity === 'PANIC';
  return {
    kind: isLast ? 'disconnected' : code === '57014' ? 'timed-out' : 'refused',
    sqlstate: code,
    retryable: ['40', '53', '57', '08'].some((passing) => code.startsWith(passing)) || code === '55P03',
    // A commit may have been done before the session ended.
    outcomeUnknown: isLast,
    message: clean(error.message),
  };
}

/** Makes the failure of a connection that was not made. */
export function ofConnecting(error) {
  if (isFailure(error)) {
    return error;
  }
  if (!isOfServer(error)) {
    // Where several addresses were tried, each says why not.
    const reasons = error?.errors ?? [error];
    return failure('unreachable', `no connection could be made: ${clean(reasons.map((reason) => reason?.message ?? reason).join(', '))}`);
  }
  return failure('unreachable', `the server refused the connection: ${clean(error.message)}`, {
    sqlstate: error.code,
    // A wrong password stays wrong, a server that starts up does not.
    retryable: !error.code.startsWith('28') && !error.code.startsWith('3D'),
  });
}

/** Says whether the connection cannot be used any more. */
export function broke({ kind, sqlstate }) {
  switch (kind) {
    case 'disconnected':
    case 'unreachable':
    // An answer that was not read to its end must not be read by the next one.
    case 'too-large':
      return true;
    case 'timed-out':
      // Where the server cancelled the statement itself, all is well.
      return sqlstate === undefined;
    default:
      return false;
  }
}

/** Takes a secret out of a message, in case that a server repeats it. */
export function without(failed, secret) {
  if (typeof secret !== 'string' || secret.length < SHORTEST_SECRET) {
    return failed;
  }
  return { ...failed, message: failed.message.replaceAll(secret, '***') };
}
