// The server's answers, and its errors in one format.

import { keep, recall } from "./storage.js";

const TOKEN = "convscope-token";
let token = recall("sessionStorage", TOKEN);

/** A refused request and the reason; `status` is 0 without an answer. */
export class Refusal extends Error {
  constructor(status, code, message, retryAfterS = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

/** Keeps the bearer token for this tab. */
export function keepToken(given) {
  token = given;
  keep("sessionStorage", TOKEN, given);
}

/** The headers with the bearer token that this tab keeps, if any. */
export function authorization() {
  return token ? { authorization: `Bearer ${token}` } : {};
}

/**
 * Requests JSON.
 * @param {string} path relative to the page, so that a prefix in front of the server does no harm
 * @param {{body?: Blob, signal?: AbortSignal}} options a body is sent with POST
 * @throws {Refusal} any other status than 200; an aborted request throws its AbortError
 */
export async function ask(path, { body, signal } = {}) {
  const answer = await request(path, { body, signal });
  const content = await answer.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null;
  });
  if (answer.ok && content) return content;
  throw refusal(answer, content);
}

/** Requests a file; otherwise like `ask`. */
export async function askBlob(path) {
  const answer = await request(path, {});
  if (answer.ok) return whole(answer.blob());
  throw refusal(answer, await answer.json().catch(() => null));
}

/** The server's answer, whatever its status; `accept` is the wanted media type. */
export async function request(path, { body, signal, accept }) {
  const headers = authorization();
  if (accept) headers.accept = accept;
  if (body) headers["content-type"] = body.type || "application/octet-stream";
  try {
    return await fetch(path, { method: body ? "POST" : "GET", body, headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "unreachable", "The server does not answer. Is it still running?");
  }
}

/** A part of an answer's body; a connection that breaks is a Refusal. */
export async function whole(reading) {
  try {
    return await reading;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "unreachable", "The connection to the server broke before the answer was complete.");
  }
}

/** The error of an answer with its JSON, or null. */
export function refusal(answer, content) {
  const retryAfterS = Number(answer.headers.get("retry-after")) || null;
  const { code, message } = content?.error ?? { code: "no_reason", message: `The server answered ${answer.status}.` };
  return new Refusal(answer.status, code, message, retryAfterS);
}

/** Runs an asynchronous action, one at a time; of the jobs queued meanwhile only the newest runs. */
export class Newest {
  #running = null;
  #next = null;

  /** @param {(job: any, signal: AbortSignal) => Promise<void>} action */
  constructor(action) {
    this.action = action;
  }

  /** Queues a job; with `abort` a running one is cancelled. */
  ask(job, { abort = false } = {}) {
    this.#next = { job };
    if (abort) this.#running?.abort();
    if (!this.#running) this.#run();
  }

  /** Cancels all jobs. */
  drop() {
    this.#next = null;
    this.#running?.abort();
  }

  async #run() {
    while (this.#next) {
      const { job } = this.#next;
      this.#next = null;
      this.#running = new AbortController();
      try {
        await this.action(job, this.#running.signal);
      } catch (error) {
        if (error.name !== "AbortError") reportError(error); // the next job runs all the same
      } finally {
        this.#running = null;
      }
    }
  }
}
