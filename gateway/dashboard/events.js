// The text of an answer that is a stream of events: the pieces of its events, joined. Pure.

export class EventText {
  #rest = ""; // a line that is not complete yet

  // Takes the next part of the stream. Returns the text that its complete events add.
  push(part) {
    const lines = (this.#rest + part).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    return lines.map(textOfLine).join("");
  }
}

function textOfLine(line) {
  if (!line.startsWith("data:")) return "";
  try {
    return textOf(JSON.parse(line.slice(5)));
  } catch {
    return ""; // `[DONE]`, or no JSON: the raw view shows it
  }
}

// One event of /v1/chat/completions, /v1/completions, /v1/responses or /v1/messages. Of several choices the first.
function textOf(event) {
  const choices = Array.isArray(event?.choices) ? event.choices : [];
  const first = choices.find((choice) => (choice?.index ?? 0) === 0);
  const ofResponse = event?.type === "response.output_text.delta" ? event.delta : null;
  return [first?.delta?.content, first?.text, ofResponse, event?.delta?.text].find((text) => typeof text === "string") ?? "";
}
