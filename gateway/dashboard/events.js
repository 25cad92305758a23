// The text of an answer that is a stream of server-sent events: the pieces of its events, joined. Pure.

export class EventText {
  #rest = ""; // a line that is not complete yet
  #data = []; // the values of `data` of an event that is not complete yet

  // Takes the next part of the stream. Returns the text that its complete events add. A line ends with CR, LF or CRLF, an
  // event with an empty line.
  push(part) {
    const lines = (this.#rest + part).split(/\r\n|\n|\r(?!$)/); // a CR at the very end may be half of a CRLF
    this.#rest = lines.pop();
    return lines.map((line) => this.#take(line)).join("");
  }

  // The stream has ended. The standard drops an event without its empty line; the page shows all text that came.
  end() {
    return this.push("\n\n");
  }

  #take(line) {
    if (line === "") return textOfData(this.#data.splice(0).join("\n"));
    const found = /^data(?:: ?(.*))?$/s.exec(line);
    if (found) this.#data.push(found[1] ?? "");
    return "";
  }
}

function textOfData(data) {
  try {
    return textOf(JSON.parse(data));
  } catch {
    return ""; // `[DONE]`, an event without data, or no JSON: the raw view shows it
  }
}

// One event of /v1/chat/completions, /v1/completions, /v1/responses or /v1/messages. Of several choices the first.
function textOf(event) {
  const choices = Array.isArray(event?.choices) ? event.choices : [];
  const first = choices.find((choice) => (choice?.index ?? 0) === 0);
  const ofResponse = event?.type === "response.output_text.delta" ? event.delta : null;
  return [first?.delta?.content, first?.text, ofResponse, event?.delta?.text].find((text) => typeof text === "string") ?? "";
}
