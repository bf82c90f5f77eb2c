"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;
  const grid = byId("grid");
  const cards = [...grid.children];
  const search = byId("find");
  const sort = byId("sort");
  const viewer = byId("viewer");
  const help = byId("help");
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
  const texts = new Map(cards.map((card) => [card, searchText(card)]));
  let shown = cards;
  let current = null;

  byId("tools").hidden = byId("keys").hidden = byId("theme").hidden = false;

  // -- filter and sort ------------------------------------------------------------------------------------------------

  function searchText(card) {
    const parts = card.querySelectorAll(".key, .prompt, .reason, .all dd");
    return [...parts].map((part) => part.textContent).join(" ").toLowerCase();
  }

  function chosenState() {
    return document.querySelector("input[name=state]:checked").value;
  }

  function numberOf(card, name) {
    const value = card.dataset[name];
    return value === "" ? null : Number(value);
  }

  function compare(name, down) {
    return (a, b) => {
      const [x, y] = [numberOf(a, name), numberOf(b, name)];
      if (x === null || y === null || x === y) return (x === null) - (y === null) || a.dataset.line - b.dataset.line;
      return down ? y - x : x - y;
    };
  }

  function updateCards() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = chosenState();
    const name = sort.value.replace("-", "");
    shown = [];
    for (const card of [...cards].sort(compare(name, sort.value.startsWith("-")))) {
      const text = texts.get(card);
      card.hidden = (state && card.dataset.state !== state) || !words.every((word) => text.includes(word));
      if (!card.hidden) shown.push(card);
      grid.append(card);
    }
    byId("empty").hidden = shown.length > 0;
    byId("count").textContent = `${shown.length} of ${cards.length} shown`;
  }

  function applyFilter() {
    updateCards();
    const top = grid.getBoundingClientRect().top - byId("tools").offsetHeight - 20;
    if (top < 0) scrollBy(0, top);
  }

  function showAll() {
    search.value = "";
    document.querySelector("input[name=state]").checked = true;
    updateCards();
  }

  let filterTimer = 0;
  search.addEventListener("input", () => {
    clearTimeout(filterTimer);
    filterTimer = setTimeout(applyFilter, 80);
  });
  sort.addEventListener("change", applyFilter);
  document.querySelectorAll("input[name=state]").forEach((input) => input.addEventListener("change", applyFilter));
  byId("reset").addEventListener("click", showAll);

  // -- videos: only the poster is loaded before the pointer or the focus is on a card ---------------------------------

  const posterLoader = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) {
      if (isIntersecting) target.poster = target.dataset.poster;
      else target.pause();
    }
  }, { rootMargin: "400px" });

  function play(video) {
    video.play().catch(() => {});
  }

  for (const video of grid.querySelectorAll("video")) {
    const link = video.parentElement;
    if (video.dataset.poster) posterLoader.observe(video);
    video.addEventListener("play", () => link.classList.add("playing"));
    video.addEventListener("pause", () => link.classList.remove("playing"));
    video.addEventListener("timeupdate", () => link.style.setProperty("--played", video.currentTime / video.duration || 0));
    const card = link.closest(".card");
    card.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && !reducedMotion.matches && play(video));
    card.addEventListener("pointerleave", () => video.pause());
    link.addEventListener("focus", () => link.matches(":focus-visible") && !reducedMotion.matches && play(video));
    link.addEventListener("blur", () => video.pause());
  }

  // -- viewer of one shot ---------------------------------------------------------------------------------------------

  function fillPane(pane, source) {
    const copy = source.querySelector("img, video, .away, .none").cloneNode(true);
    if (copy.tagName === "VIDEO") {
      copy.controls = copy.autoplay = true;
      copy.removeAttribute("aria-hidden");
      copy.removeAttribute("tabindex");
      copy.setAttribute("aria-label", "The video");
      copy.poster = copy.dataset.poster ?? "";
    } else if (copy.tagName === "IMG") {
      copy.alt ||= "The result";
    }
    pane.replaceChildren(copy);
    pane.className = `pane s-${source.closest(".card").dataset.state}`;
  }

  function openViewer(card) {
    current = card;
    byId("viewer-title").textContent = card.querySelector(".key").textContent;
    byId("viewer-prompt").textContent = card.querySelector(".prompt").textContent;
    const notes = [...card.querySelectorAll(".reason, .command")].map((note) => note.cloneNode(true));
    byId("viewer-notes").replaceChildren(...notes);
    byId("viewer-notes").className = `s-${card.dataset.state}`;
    byId("viewer-all").replaceChildren(...card.querySelector(".all").cloneNode(true).children);
    fillPane(byId("viewer-input"), card.querySelector(".input"));
    fillPane(byId("viewer-output"), card.querySelector(".output"));
    if (!viewer.open) viewer.showModal();
  }

  function step(by) {
    const place = shown.indexOf(current) + by;
    if (shown[place]) openViewer(shown[place]);
  }

  grid.addEventListener("click", (event) => {
    const pane = event.target.closest(".pane");
    if (!pane || event.target.closest(".away a, audio") || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    openViewer(pane.closest(".card"));
  });
  viewer.addEventListener("close", () => {
    byId("viewer-output").replaceChildren();
    if (current) focus(current);
  });
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
  help.addEventListener("click", (event) => event.target === help && help.close());
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => viewer.close());
  byId("keys").addEventListener("click", () => help.showModal());
  byId("help-close").addEventListener("click", () => help.close());

  // -- keyboard -------------------------------------------------------------------------------------------------------

  function focus(card) {
    const link = card.querySelector(".open, a, pre, .key");
    if (!link.matches("a, button, pre")) link.tabIndex = -1;
    link.focus({ preventScroll: true, focusVisible: true });
    card.scrollIntoView({ block: "nearest", behavior: reducedMotion.matches ? "auto" : "smooth" });
  }

  function columns() {
    return getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  }

  function move(by) {
    const here = shown.indexOf(document.activeElement.closest?.(".card"));
    const there = here < 0 ? 0 : here + by;
    if (shown[there]) focus(shown[there]);
  }

  const steps = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns(), ArrowDown: columns, k: () => -1, j: () => 1 };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "Escape" && typing && !viewer.open) {
      showAll();
      event.target.blur();
      return;
    }
    if (typing || help.open) return;
    if (viewer.open) {
      if (event.target.matches("video")) return;
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
      return;
    }
    const inCard = event.target.closest(".card");
    if (event.key in steps) {
      if (event.key.startsWith("Arrow") && !inCard) return;
      if (event.target.matches("pre") && /Left|Right/.test(event.key)) return;
      move(steps[event.key]());
    } else if (event.key === "Enter" && inCard && !event.target.matches("button, .away a")) openViewer(inCard);
    else if (event.key === "/") search.focus();
    else if (event.key === "?") help.showModal();
    else if (event.key === "t") nextTheme();
    else if (event.key === "Escape") showAll();
    else if (/^[1-6]$/.test(event.key)) document.querySelectorAll("input[name=state]")[event.key - 1]?.click();
    else return;
    event.preventDefault();
  });

  // -- colors and clipboard -------------------------------------------------------------------------------------------

  const themes = ["auto", "light", "dark"];

  function setTheme(theme) {
    root.dataset.theme = theme;
    byId("theme").textContent = theme[0].toUpperCase() + theme.slice(1);
    byId("theme").setAttribute("aria-label", `${byId("theme").textContent} colors`);
  }

  function nextTheme() {
    const theme = themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length];
    setTheme(theme);
    try {
      localStorage.setItem("kie-async-theme", theme);
    } catch { /* storage is not available */ }
  }

  function storedTheme() {
    try {
      return localStorage.getItem("kie-async-theme");
    } catch {
      return null;
    }
  }

  setTheme(themes.includes(storedTheme()) ? storedTheme() : "auto");
  byId("theme").addEventListener("click", nextTheme);

  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1400);
  });

  updateCards();
})();
