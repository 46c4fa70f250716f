"""The page for raters: one file without external resources, which keeps their answers until they save them.

The rater's name determines the first trial of the list, the left side, and the first image of every set, so that a page
that is opened again continues with the same trials.
"""

import functools
import json
from html import escape

from genimg_jax.evaluation.human import FORMAT, NOISE, SCALE, Study
from genimg_jax.reports.html import STYLE

SMALL = 128  # pixels: smaller images are enlarged without interpolation, at most `MAGNIFIED` times
MAGNIFIED = 10
LEAST_WIDTH = 240  # of an image, in screen pixels

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{question}</title>
<style>{style}</style>
</head>
<body class="{mode}">
<section id="start">
<h1>{question}</h1>
<p>You will see {trials} {what}, one after another. There is no need to hurry, and no need to ponder. {how}</p>
<form><label for="rater">Your name, or any word that is yours alone</label>
<input id="rater" autocomplete="off" autofocus required maxlength="60"><button class="main">Start</button></form>
</section>
<section id="trial" hidden>
<header><h1>{question}</h1><span id="count"></span></header>
<progress id="progress" max="{trials}" value="0"></progress>
<div id="shown">{slots}</div>
<div id="scale">{scale}</div>
<footer><span>{keys}</span><button id="back" title="Backspace">Back</button></footer>
</section>
<section id="end" hidden>
<h1>Thank you</h1>
<p>That was the last one. Save your answers, and send the file to whoever asked you.</p>
<p><button class="main" id="save">Save answers</button> <button id="undo">Back</button>
<button id="another">Another rater</button></p>
<p id="saved"></p>
</section>
<p id="note"></p>
<script type="application/json" id="study">{study}</script>
<script>{script}</script>
</body>
</html>
"""

LOOK = """
body { min-height: 100vh; max-width: 1000px; display: flex; flex-direction: column; padding: 1rem; }
section { margin: auto; width: 100%; } section[hidden] { display: none; }
#start, #end { max-width: 34rem; padding: 1.6rem 1.8rem; background: var(--surface); border: 1px solid var(--line);
  border-radius: 12px; }
#start p, #end p { margin: .7rem 0; }
form { display: grid; grid-template-columns: 1fr auto; gap: .4rem .6rem; margin-top: 1.2rem; }
label { grid-column: 1 / -1; }
input, button { font: inherit; color: inherit; padding: .55rem .9rem; border: 1px solid var(--line);
  border-radius: 8px; background: var(--page); min-width: 0; }
button { cursor: pointer; } button:hover { border-color: var(--train); }
button.main { background: var(--train); border-color: var(--train); color: var(--surface); font-weight: 600; }
button:disabled { opacity: .4; cursor: default; }
:focus-visible { outline: 3px solid var(--train); outline-offset: 2px; }
header, #trial footer { display: flex; justify-content: space-between; align-items: center; gap: 1rem; }
#trial h1 { font-size: 1.3rem; }
#count { white-space: nowrap; color: var(--faint); font-variant-numeric: tabular-nums; }
#trial footer { margin: 0; font-size: .85rem; }
progress { width: 100%; height: 6px; margin: .8rem 0 1.2rem; appearance: none; border: 0; border-radius: 3px;
  overflow: hidden; background: var(--line); }
progress::-webkit-progress-bar { background: var(--line); }
progress::-webkit-progress-value { background: var(--train); }
progress::-moz-progress-bar { background: var(--train); }
#shown { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.rating #shown { grid-template-columns: 1fr; justify-items: center; }
.picture { padding: clamp(.5rem, 2vw, 1.1rem); background: var(--surface); border-radius: 12px; }
.picture img { width: min(100%, 62vh, {width}); margin: auto; aspect-ratio: {aspect}; image-rendering: {rendering};
  border-radius: 4px; animation: appear .15s; }
.rating .picture { width: min(100%, 420px); }
#scale { display: flex; justify-content: center; gap: .6rem; margin: 1rem 0; }
#scale button { min-width: 3.2rem; } #scale:empty { margin: .6rem 0; }
#note { text-align: center; }
kbd { padding: .05rem .4rem; border: 1px solid var(--line); border-radius: 5px; background: var(--surface); }
@media (pointer: coarse) { #trial footer span { visibility: hidden; } }
@keyframes appear { from { opacity: 0; } }
@media (prefers-reduced-motion: reduce) { .picture img { animation: none; } }
"""

SCRIPT = """
"use strict";
const study = JSON.parse(document.getElementById("study").textContent);
const element = id => document.getElementById(id);
const pictures = [...document.querySelectorAll(".picture")];
const KEY = "genimg human " + study.page;
const memory = (() => { try { localStorage.setItem(KEY + "?", ""); localStorage.removeItem(KEY + "?");
  return localStorage; } catch { return null; } })();
let state = JSON.parse(memory?.getItem(KEY) ?? "null");
let since = 0;

// FNV-1a with the final mixing of MurmurHash3: a change of the text changes all 32 bits.
function hash(text) {
  let h = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) h = Math.imul(h ^ byte, 0x01000193);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

const random = name => hash(study.page + "|" + name + "|" + state.rater);

function trial(position) {
  const number = (position + random("start")) % study.trials.length;
  const shown = study.trials[number].map(([set, image]) =>
    [set, (image + (set === study.noise ? 0 : random("image of " + set))) % study.images[set].length]);
  return {trial: number, shown: random("sides") % 2 ? shown.reverse() : shown};
}

function show() {
  const done = state ? state.answers.length : 0;
  const part = !state ? "start" : done === study.trials.length ? "end" : "trial";
  for (const id of ["start", "trial", "end"]) element(id).hidden = id !== part;
  if (part === "start") element("rater").focus();
  if (part !== "trial") return;
  element("count").textContent = `${done + 1} of ${study.trials.length}`;
  element("progress").value = done;
  element("back").disabled = !done;
  trial(done).shown.forEach(([set, image], i) => {
    const img = new Image();
    img.alt = "";
    img.src = "data:image/png;base64," + study.images[set][image];
    pictures[i].replaceChildren(img);
  });
  document.activeElement?.blur();
  since = performance.now();
}

function change(next) {
  state = next;
  try { if (next) memory?.setItem(KEY, JSON.stringify(next)); else memory?.removeItem(KEY); }
  catch { element("note").textContent = "This browser keeps nothing: leave the page open until you have saved."; }
  show();
}

const start = rater => change({rater, started: new Date().toISOString(), answers: []});

function answer(value) {
  if (!state || state.answers.length === study.trials.length) return;
  const given = {...trial(state.answers.length), answer: value, milliseconds: Math.round(performance.now() - since)};
  change({...state, answers: [...state.answers, given], finished: new Date().toISOString()});
}

function back() {
  if (state?.answers.length) change({...state, answers: state.answers.slice(0, -1)});
}

function record() {
  const {images, noise, trials, ...about} = study;
  return {...about, trials: trials.length, ...state};
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(record(), null, 1)], {type: "application/json"}));
  link.download = `answers-${state.rater.replace(/[^\\p{L}\\p{N}]+/gu, "-")}.json`;
  link.click();
  element("saved").textContent = `Saved as ${link.download}, where this browser keeps downloads.`;
}

element("start").querySelector("form").onsubmit = event => {
  event.preventDefault();
  if (element("rater").value.trim()) start(element("rater").value.trim());
};
element("back").onclick = element("undo").onclick = back;
element("save").onclick = save;
element("another").onclick = () => {
  if (confirm("Are the answers saved? They are forgotten here.")) { element("saved").textContent = ""; change(null); }
};
for (const button of document.querySelectorAll("[data-answer]"))
  button.onclick = () => answer(Number(button.dataset.answer));
document.onkeydown = event => {
  if (element("trial").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key;
  const given = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (!given && key !== "Backspace") return;
  event.preventDefault();
  if (given) answer(Number(given.dataset.answer)); else back();
};
if (!memory) element("note").textContent = "This browser keeps nothing: leave the page open until you have saved.";
show();
"""


def page(study: Study, shape: tuple[int, ...]) -> str:
    """The HTML of a study of images [H, W, C]."""
    choice = study.mode == "choice"
    content = {
        "format": FORMAT,
        "page": study.digest,
        "mode": study.mode,
        "question": study.question,
        "sets": study.sets,
        "misses_allowed": study.misses_allowed,
        "trials": study.trials,
        "noise": NOISE,
        "images": study.images,
    }
    sides = (("left", "ArrowLeft"), ("right", "ArrowRight"))
    slots = "".join(
        f'<button class="picture" data-answer="{i}" data-key="{key}" aria-label="{side} image"></button>'
        for i, (side, key) in enumerate(sides)
    )
    marks = "".join(f'<button data-answer="{i}" data-key="{i}">{i}</button>' for i in range(1, SCALE + 1))
    height, width, _ = shape
    look = {
        "{aspect}": f"{width} / {height}",
        "{rendering}": "pixelated" if max(height, width) < SMALL else "auto",
        "{width}": f"{max(LEAST_WIDTH, MAGNIFIED * width)}px",
    }
    style = STYLE + functools.reduce(lambda text, part: text.replace(*part), look.items(), LOOK)
    return PAGE.format(
        question=escape(study.question),
        style=style,
        mode=study.mode,
        trials=len(study.trials),
        what="pairs of images" if choice else "images",
        how="Click an image, or press an arrow key." if choice else f"1 is worst, {SCALE} is best.",
        slots=slots if choice else '<div class="picture"></div>',
        scale="" if choice else marks,
        keys="<kbd>←</kbd> left &ensp; <kbd>→</kbd> right &ensp; <kbd>⌫</kbd> back"
        if choice
        else f"<kbd>1</kbd> worst to <kbd>{SCALE}</kbd> best &ensp; <kbd>⌫</kbd> back",
        # An end tag inside the data would end it.
        study=json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"),
        script=SCRIPT,
    )
