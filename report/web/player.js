// The player: the video, or a clock in its place; detections that are played; the video file.

/** Stands in for the video where there is none: it has the same times, methods and events. */
class Clock extends EventTarget {
  #time = 0;
  #since = null; // when it was started, in milliseconds of the browser
  constructor(duration) {
    super();
    this.duration = duration;
  }
  get paused() {
    return this.#since === null;
  }
  get currentTime() {
    const passed = this.paused ? 0 : (performance.now() - this.#since) / 1000;
    return Math.min(this.duration, this.#time + passed);
  }
  set currentTime(time) {
    this.#time = Math.min(this.duration, Math.max(0, time));
    if (!this.paused) this.#since = performance.now();
    this.dispatchEvent(new Event("seeking"));
  }
  play() {
    if (this.currentTime >= this.duration) this.#time = 0;
    this.#since = performance.now();
    this.dispatchEvent(new Event("play"));
  }
  pause() {
    this.#time = this.currentTime;
    this.#since = null;
    this.dispatchEvent(new Event("pause"));
  }
}

const detections = data.detections.map(([group, start, end, score]) => ({ group, start, end, score, lane: 0 }));
const best = detections.length ? detections[0].score : 1;
const lowest = detections.length ? Math.min(0, detections[detections.length - 1].score) : 0;
const video = get("video");
let length = detections.reduce((most, one) => Math.max(most, one.end), Math.max(data.seconds, 0.1));
const clock = new Clock(length);
let player = clock; // the video or the clock
let least = best > 0 ? best * data.least : lowest; // the score from which detections are shown
let shown = []; // those detections, by time
let current = null; // the detection that was chosen last
let limit = null; // where playing stops, while a detection is played
let wanted = null; // where to go when the video has arrived where it is going: Chromium may stop for good between two seeks

const share = (one) => Math.min(1, Math.max(0, best > 0 ? one.score / best : 1)); // of the best score
const nameOf = (one) => isolated(data.classes[one.group][0]);
const spanOf = (one) => `${clockTime(one.start)} – ${clockTime(one.end)}`;
const now = () => wanted ?? player.currentTime;
const say = (line) => (get("status").textContent = line);

function goTo(time) {
  if (player === video && (video.seeking || wanted !== null)) wanted = time;
  else player.currentTime = time;
}

function start() {
  const started = player.play(); // a promise, of the video
  if (started) started.catch((error) => error.name === "NotAllowedError" && say("Press play to start the video."));
}

function togglePlay() {
  if (player.paused) start();
  else player.pause();
}

/** Go to a detection, and play exactly it; if it is playing already, go on past its end. */
function choose(one, playing = true) {
  if (one === current && limit !== null && !player.paused) {
    limit = null;
    say(`Going on past the end of ${nameOf(one)}. Esc stops.`);
    return;
  }
  current = one;
  limit = one.end;
  goTo(one.start);
  const within = !(one.start >= player.duration - 0.01);
  say(
    !within ? `The video ends before ${nameOf(one)}, ${spanOf(one)}.`
    : playing ? `Playing ${nameOf(one)}, ${spanOf(one)}. Click it again to go on past its end; Esc stops.`
    : `${nameOf(one)}, ${spanOf(one)}. Press play to see it.`,
  );
  if (playing && within) start();
  else player.pause();
  reveal(one);
  markCurrent();
}

function stop() {
  player.pause();
  limit = current = null;
  say("");
  markCurrent();
}

/** Away from a detection, playing does not stop at its end. */
function leave(time) {
  if (limit === null || (time > current.start - 0.05 && time < limit + 0.05)) return;
  limit = null;
  say("");
}

function seek(time) {
  goTo(Math.min(length, Math.max(0, time)));
  follow();
}

/** The detection before or after the chosen one, or the present moment. */
function step(by) {
  if (!shown.length) return;
  let place = shown.indexOf(current);
  if (place < 0) {
    const after = shown.findIndex((one) => one.start > now());
    place = (after < 0 ? shown.length : after) - (by > 0 ? 1 : 0);
  }
  limit = null; // at the first and the last, it is played again
  choose(shown[Math.min(shown.length - 1, Math.max(0, place + by))]);
}

/** What changes with time; stops at the end of a detection that is played. */
function tick() {
  const time = now();
  if (limit !== null && !player.paused && !player.seeking && wanted === null && time >= limit - 0.004) {
    player.pause();
    goTo(limit);
    limit = null;
    say(`End of ${nameOf(current)}. Click it to see it again; play goes on.`);
  }
  if (player === clock && !clock.paused && time >= clock.duration) clock.pause();
  get("now").textContent = clockTime(now());
  placePlayhead();
}

function run() {
  tick();
  if (player.paused) return;
  follow();
  requestAnimationFrame(run);
}

function showPlaying() {
  const label = player.paused ? "Play" : "Pause";
  get("play").setAttribute("aria-label", label);
  get("play-icon").setAttribute("href", player.paused ? "#icon-play" : "#icon-pause");
}

for (const source of [video, clock]) {
  const own = (act) => () => source === player && act();
  source.addEventListener("play", own(() => (showPlaying(), run())));
  source.addEventListener("pause", own(() => (showPlaying(), tick())));
  source.addEventListener("timeupdate", own(tick)); // also in a tab in the background, where no frames are drawn
  source.addEventListener("seeking", own(() => {
    leave(now());
    tick();
  }));
}

video.addEventListener("seeked", () => {
  if (wanted === null) return;
  video.currentTime = wanted;
  wanted = null;
});

// -------------------------------------------------------------------------------------------- the video file

/** Let the clock run the timeline, and say why. */
function withoutVideo(why) {
  const time = now();
  wanted = null;
  video.hidden = true;
  get("missing").hidden = false;
  get("why").textContent = why;
  player = clock;
  clock.currentTime = time;
  showPlaying();
}

function open(address, name) {
  const wasAt = now();
  wanted = null;
  clock.pause();
  video.onerror = () =>
    withoutVideo(`${name} cannot be played: it is not where it was, or the browser does not know its format.`);
  video.onloadedmetadata = () => {
    const { duration, videoWidth } = video;
    if (Number.isFinite(duration)) setLength(Math.max(length, duration));
    if (Math.abs(duration - data.seconds) > Math.max(3, 0.05 * data.seconds))
      say(`${name} is ${clockTime(duration)} long, but the features are ${clockTime(data.seconds)}: is it the right video?`);
    else if (!videoWidth) say(`The browser plays only the sound of ${name}: it does not know the format of its pictures.`);
  };
  get("missing").hidden = true;
  video.hidden = false;
  video.src = address;
  video.currentTime = wasAt;
  player = video;
  showPlaying();
}

let opened = null; // the address of a file that was chosen
function openFile(file) {
  if (!file) return;
  if (opened) URL.revokeObjectURL(opened);
  opened = URL.createObjectURL(file);
  open(opened, file.name);
}

get("file").addEventListener("change", () => openFile(get("file").files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  openFile(event.dataTransfer.files[0]);
});

