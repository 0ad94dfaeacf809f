"use strict";
// What the pages of videos and their index share. Text from the data is only ever set as text, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const EACH = 100; // rows of a table that are made at a time
const get = (id) => document.getElementById(id);

/** A new element with attributes and children; a child may be text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Text in whatever script: the direction of writing is its own. */
const text = (content, attributes = {}) => element("bdi", attributes, content);

/** The same for text among other text that no element surrounds. */
const isolated = (content) => `\u2068${content}\u2069`;

/** Seconds as 1:02:03.4. */
function clockTime(seconds, digits = 1) {
  const unit = 10 ** digits;
  const all = Math.round(Math.max(0, seconds) * unit);
  const minutes = Math.floor(all / unit / 60);
  const rest = ((all - minutes * 60 * unit) / unit).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  const hours = Math.floor(minutes / 60);
  return hours ? `${hours}:${String(minutes % 60).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

const scoreText = (score) => (Math.abs(score) >= 0.01 || !score ? score.toFixed(2) : score.toPrecision(2));
const counted = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
