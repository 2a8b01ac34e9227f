// A request whose answer comes as server-sent events: progress, and then the result or an error.

import { Refusal, refusal, request, whole } from "../../core/server.js";

/**
 * Posts an image, and returns the JSON of the result.
 * @param {(progress: {method: string, done: number, total: number}) => void} tell how far the server is
 * @throws {Refusal}
 */
export async function askSlowly(path, body, signal, tell) {
  const answer = await request(path, { body, signal, accept: "text/event-stream" });
  if (!answer.ok) throw refusal(answer, await answer.json().catch(() => null));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { value, done } = await whole(reader.read());
    if (done) throw new Refusal(0, "unreachable", "The server ended its answer too early.");
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const [name, data] = event.slice("event: ".length).split("\ndata: ");
      const content = JSON.parse(data);
      if (name === "result") return content;
      if (name === "error") throw refusal(answer, content);
      tell(content);
    }
  }
}
