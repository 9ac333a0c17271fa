"use strict";
// All that the server says reaches the page as text, never as markup.

const element = (id) => document.getElementById(id);
const PAUSE_MS = 1000; // before asking again a server that is away
const SMALL = 256; // pixels; images below are enlarged with sharp edges
let state = null;
let ready = false; // the images are on the screen and nothing is under way

if (location.search) history.replaceState(null, "", location.pathname); // the token is in a cookie by now

function say(text) {
  element("notice").textContent = text;
  element("notice").hidden = !text;
}

// Every request may be repeated: what was stored is stored once, so a lost answer costs nothing.
async function ask(path, content) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) };
  for (;;) {
    try {
      const response = await fetch(path, content === undefined ? { cache: "no-store" } : post);
      const answer = await response.json();
      if (response.ok) {
        say("");
        return answer;
      }
      if (response.status < 500) return { error: answer.error };
    } catch {
      // the server is away, or went away in the middle
    }
    say("The server does not answer. Votes up to here are stored; trying again…");
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

async function go(path, content) {
  ready = false;
  enable();
  const answer = await ask(path, content);
  if (answer.error) {
    say(answer.error);
    ready = state !== null && state.task !== null;
    enable();
    return;
  }
  await show(answer);
}

async function show(next) {
  const same = state && state.task === next.task && state.rater === next.rater;
  state = next;
  element("join").hidden = state.rater !== null;
  element("voting").hidden = state.rater === null;
  element("instructions").textContent = state.instructions;
  if (state.rater === null) return;
  const over = state.task === null;
  element("who").textContent = state.rater;
  element("progress").max = state.of;
  element("progress").value = over ? state.of : state.task;
  element("count").textContent = over ? `${state.of} of ${state.of}` : `${state.task + 1} of ${state.of}`;
  for (const id of ["prompt", "images", "answer"]) element(id).hidden = over;
  element("done").hidden = !over;
  enable();
  if (over) return;
  element("prompt").textContent = state.prompt;
  element("question").textContent = state.question;
  if (!same) await showImages();
  showChoices();
  ready = true;
  enable();
  for (const address of state.next) new Image().src = address; // those to come are fetched while these are looked at
}

async function showImages() {
  element("prompt").scrollTop = 0;
  const images = state.images.map((address, place) => {
    const image = new Image();
    image.alt = state.images.length === 1 ? "The image" : ["Left image", "Right image"][place];
    image.onclick = () => enlarge(image);
    image.src = address;
    return image;
  });
  element("choices").replaceChildren();
  element("images").replaceChildren(...images);
  for (const image of images) await arrival(image);
}

async function arrival(image) {
  for (;;) {
    try {
      await image.decode();
      image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) < SMALL);
      return;
    } catch {
      say("An image has not arrived; trying again…");
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      image.src = image.src;
      say("");
    }
  }
}

function showChoices() {
  const signs = { ArrowLeft: "←", ArrowDown: "↓", ArrowRight: "→" };
  const buttons = state.choices.map((choice) => {
    const button = document.createElement("button");
    const key = document.createElement("kbd");
    key.textContent = signs[choice.key] || choice.key;
    button.type = "button";
    button.append(choice.label, " ", key);
    button.onclick = () => vote(choice.answer);
    return button;
  });
  element("choices").replaceChildren(...buttons);
}

function enable() {
  for (const button of element("choices").children) button.disabled = !ready;
  element("undo").disabled = !state || state.last === null || !(ready || state.task === null);
}

function enlarge(image) {
  const large = new Image();
  large.src = image.src;
  large.alt = image.alt;
  large.className = image.className;
  element("large").replaceChildren(large);
  element("large").showModal();
}

function vote(answer) {
  if (ready) go("vote", { task: state.task, question: state.question_name, answer });
}

function undo() {
  if (!element("undo").disabled) go("undo", state.last);
}

element("undo").onclick = undo;
element("leave").onclick = () => {
  element("name").value = "";
  go("leave", {});
};
element("large").onclick = () => element("large").close();
element("join").onsubmit = (event) => {
  event.preventDefault();
  go("join", { name: element("name").value });
};

addEventListener("keydown", (event) => {
  const elsewhere = element("voting").hidden || element("large").open;
  if (elsewhere || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.toLowerCase() === "u") {
    undo();
  } else if (ready) {
    const choice = state.choices.find((one) => one.key === event.key);
    if (!choice) return;
    event.preventDefault(); // arrows would scroll
    vote(choice.answer);
  }
});

go("state");
