// What is looked for in the text of a statement before it is sent.

import { failure } from './failure.js';

/** The words that a text begins with, in capitals; comments, blanks and empty statements are skipped. */
function* words(sql) {
  let at = 0;
  for (;;) {
    at += /^[\s;(]*/u.exec(sql.slice(at))[0].length;
    if (sql.startsWith('--', at)) {
      const end = sql.slice(at).search(/[\n\r]/);
      at = end < 0 ? sql.length : at + end;
    } else if (sql.startsWith('/*', at)) {
      at = afterComment(sql, at + 2);
    } else {
      const [word] = /^\w*/.exec(sql.slice(at));
      if (word === '') {
        return;
      }
      yield word.toUpperCase();
      at += word.length;
    }
  }
}

/** Returns where a comment ends; comments nest. */
function afterComment(sql, start) {
  let at = start;
  for (let depth = 1; depth > 0; ) {
    const found = sql.slice(at).search(/\*\/|\/\*/);
    if (found < 0) {
      return sql.length;
    }
    depth += sql.startsWith('*/', at + found) ? -1 : 1;
    at += found + 2;
  }
  return at;
}

/**
 * Refuses statements that would begin or end a transaction behind the back of whoever holds the connection, and those that
 * change the protocol.
 *
 * @param {string} sql
 * @param {'alone' | 'within' | 'copy'} place
 */
export function check(sql, place) {
  const refuse = (reason) => {
    throw failure('refused', reason);
  };
  if (sql.includes('\0')) {
    refuse('the statement has a NUL in it');
  }
  const [first = '', second = '', third = ''] = words(sql);
  if (place === 'copy') {
    if (first !== 'COPY') {
      refuse('the statement is no COPY');
    }
    return;
  }
  if (first === 'COPY') {
    refuse('a COPY is begun as such, within a transaction');
  }
  if (first === 'ROLLBACK' && place === 'within') {
    // To a savepoint: the transaction goes on.
    const target = second === 'WORK' || second === 'TRANSACTION' ? third : second;
    if (target !== 'TO') {
      refuse('a transaction is not ended by a statement');
    }
    return;
  }
  if (['BEGIN', 'START', 'COMMIT', 'END', 'ROLLBACK', 'ABORT'].includes(first)) {
    refuse('a transaction is not begun or ended by a statement');
  }
  if (first === 'PREPARE' && second === 'TRANSACTION') {
    refuse('a transaction is not ended by a statement');
  }
}

const PLAIN = ['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'MERGE', 'WITH', 'VALUES', 'TABLE', 'LOCK'];

/** Says whether a statement may leave something in the session: settings, temporary tables, locks, cursors. */
export function leavesTraces(sql) {
  const { value: first } = words(sql).next();
  return !PLAIN.includes(first) || /set_config|advisory|temp/i.test(sql);
}
