"use strict";
// One playhead per clip: its place is the custom property --at, a fraction of the time axis that all lanes share.
const players = [];

function setUp(box) {
  const media = [...box.querySelectorAll("video, audio")];
  let video = media[0]; // the one that is played; it has sound alone on the page of a plan
  const slider = box.querySelector("input[type=range]");
  const button = box.querySelector("button.play");
  const seconds = Number(box.dataset.seconds);
  let shown = -1;

  function show(time) {
    if (time === shown) return;
    shown = time;
    box.style.setProperty("--at", Math.min(Math.max(time / seconds, 0), 1));
    if (slider) {
      slider.value = time;
      slider.setAttribute("aria-valuetext", time.toFixed(2) + " s");
    }
  }
  function seek(time) {
    show(time);
    if (!video) return;
    const place = () => { video.currentTime = Math.min(time, Math.max(video.duration - 0.01, 0)); };
    if (video.readyState >= 1) place();
    else {
      video.addEventListener("loadedmetadata", place, { once: true });
      video.load();
    }
  }
  function follow() {
    show(video.currentTime);
    if (!video.paused) requestAnimationFrame(follow);
  }
  if (slider) slider.addEventListener("input", () => seek(Number(slider.value)));
  for (const lane of box.querySelectorAll(".lane:not(.axis)")) {
    lane.addEventListener("click", (event) => {
      const edge = lane.getBoundingClientRect();
      seek((event.clientX - edge.left) / edge.width * seconds);
    });
  }
  if (!video) {
    if (button) button.hidden = true;
    return;
  }
  players.push(...media);
  for (const one of media) {
    one.addEventListener("play", () => {
      video = one;
      for (const other of players) if (other !== video) other.pause();
      follow();
    });
    for (const name of ["seeked", "timeupdate", "ended"]) one.addEventListener(name, () => one === video && show(one.currentTime));
  }
  if (button) {
    const title = button.getAttribute("aria-label").slice("play ".length);
    const toggle = () => (video.paused ? video.play() : video.pause());
    button.addEventListener("click", toggle);
    video.addEventListener("click", toggle);
    const word = () => {
      button.textContent = video.paused ? "▶ Play" : "❚❚ Pause";
      button.setAttribute("aria-label", (video.paused ? "play " : "pause ") + title);
    };
    for (const name of ["play", "pause"]) video.addEventListener(name, word);
  }
}
document.querySelectorAll(".card, .take").forEach(setUp);

const panel = document.getElementById("cards");
if (panel) {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const filter = document.getElementById("tier");
  const cards = [...panel.children];
  let chosen = tabs[0].dataset.tab;

  function arrange() {
    const there = cards.filter((card) => chosen in card.dataset);
    const order = there.sort((a, b) => a.dataset[chosen] - b.dataset[chosen]);
    const visible = order.filter((card) => !filter.value || card.dataset.tier === filter.value);
    for (const card of cards) {
      card.hidden = !visible.includes(card);
      const video = card.querySelector("video");
      if (video && card.hidden) video.pause();
    }
    panel.append(...order);
    const noun = visible.length === 1 ? " clip" : " clips";
    document.getElementById("count").textContent = visible.length + noun + (filter.value ? " of tier " + filter.value : "");
  }
  function select(tab, focus) {
    chosen = tab.dataset.tab;
    for (const other of tabs) {
      other.setAttribute("aria-selected", String(other === tab));
      other.tabIndex = other === tab ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", tab.id);
    if (focus) tab.focus();
    arrange();
  }
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => select(tab, false));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) select(tabs[(place + step + tabs.length) % tabs.length], true);
    });
  });
  filter.addEventListener("change", arrange);
  arrange();
}
