"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const root = document.documentElement;
  const grid = find("grid");
  const cards = [...grid.children];
  const search = find("find");
  const sort = find("sort");
  const viewer = find("viewer");
  const help = find("help");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const texts = new Map(cards.map((card) => [card, wordsOf(card)]));
  let shown = cards;
  let at = null;

  find("tools").hidden = find("keys").hidden = find("theme").hidden = false;

  // -- what is shown, and in which order -----------------------------------------------------------------------------

  function wordsOf(card) {
    const parts = card.querySelectorAll(".key, .prompt, .reason, .all dd");
    return [...parts].map((part) => part.textContent).join(" ").toLowerCase();
  }

  function chosenState() {
    return document.querySelector("input[name=state]:checked").value;
  }

  function valueOf(card, name) {
    const value = card.dataset[name];
    return value === "" ? null : Number(value);
  }

  function compare(name, down) {
    return (a, b) => {
      const [x, y] = [valueOf(a, name), valueOf(b, name)];
      if (x === null || y === null || x === y) return (x === null) - (y === null) || a.dataset.line - b.dataset.line;
      return down ? y - x : x - y;
    };
  }

  function show() {
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
    find("empty").hidden = shown.length > 0;
    find("count").textContent = `${shown.length} of ${cards.length} shown`;
  }

  function begin() {
    show();
    const top = grid.getBoundingClientRect().top - find("tools").offsetHeight - 20;
    if (top < 0) scrollBy(0, top);
  }

  function showAll() {
    search.value = "";
    document.querySelector("input[name=state]").checked = true;
    show();
  }

  let soon = 0;
  search.addEventListener("input", () => {
    clearTimeout(soon);
    soon = setTimeout(begin, 80);
  });
  sort.addEventListener("change", begin);
  document.querySelectorAll("input[name=state]").forEach((input) => input.addEventListener("change", begin));
  find("reset").addEventListener("click", showAll);

  // -- films: the poster is the first frame, and nothing else is read before somebody looks ---------------------------

  const near = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) {
      if (isIntersecting) target.poster = target.dataset.poster;
      else target.pause();
    }
  }, { rootMargin: "400px" });

  function play(film) {
    film.play().catch(() => {});
  }

  for (const film of grid.querySelectorAll("video")) {
    const link = film.parentElement;
    if (film.dataset.poster) near.observe(film);
    film.addEventListener("play", () => link.classList.add("playing"));
    film.addEventListener("pause", () => link.classList.remove("playing"));
    film.addEventListener("timeupdate", () => link.style.setProperty("--played", film.currentTime / film.duration || 0));
    const card = link.closest(".card");
    card.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && !calm.matches && play(film));
    card.addEventListener("pointerleave", () => film.pause());
    link.addEventListener("focus", () => link.matches(":focus-visible") && !calm.matches && play(film));
    link.addEventListener("blur", () => film.pause());
  }

  // -- one shot, large ------------------------------------------------------------------------------------------------

  function fill(pane, source) {
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

  function see(card) {
    at = card;
    find("viewer-title").textContent = card.querySelector(".key").textContent;
    find("viewer-prompt").textContent = card.querySelector(".prompt").textContent;
    const notes = [...card.querySelectorAll(".reason, .command")].map((note) => note.cloneNode(true));
    find("viewer-notes").replaceChildren(...notes);
    find("viewer-notes").className = `s-${card.dataset.state}`;
    find("viewer-all").replaceChildren(...card.querySelector(".all").cloneNode(true).children);
    fill(find("viewer-input"), card.querySelector(".input"));
    fill(find("viewer-output"), card.querySelector(".output"));
    if (!viewer.open) viewer.showModal();
  }

  function step(by) {
    const place = shown.indexOf(at) + by;
    if (shown[place]) see(shown[place]);
  }

  grid.addEventListener("click", (event) => {
    const pane = event.target.closest(".pane");
    if (!pane || event.target.closest(".away a") || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    see(pane.closest(".card"));
  });
  viewer.addEventListener("close", () => {
    find("viewer-output").replaceChildren();
    if (at) focus(at);
  });
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
  help.addEventListener("click", (event) => event.target === help && help.close());
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("close").addEventListener("click", () => viewer.close());
  find("keys").addEventListener("click", () => help.showModal());
  find("help-close").addEventListener("click", () => help.close());

  // -- keys -----------------------------------------------------------------------------------------------------------

  function focus(card) {
    const link = card.querySelector(".open, a, pre, .key");
    if (!link.matches("a, button, pre")) link.tabIndex = -1;
    link.focus({ preventScroll: true, focusVisible: true });
    card.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
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
    } else if (event.key === "Enter" && inCard && !event.target.matches("button, .away a")) see(inCard);
    else if (event.key === "/") search.focus();
    else if (event.key === "?") help.showModal();
    else if (event.key === "t") turn();
    else if (event.key === "Escape") showAll();
    else if (/^[1-6]$/.test(event.key)) document.querySelectorAll("input[name=state]")[event.key - 1]?.click();
    else return;
    event.preventDefault();
  });

  // -- colours and copies ---------------------------------------------------------------------------------------------

  const themes = ["auto", "light", "dark"];

  function wear(theme) {
    root.dataset.theme = theme;
    find("theme").textContent = theme[0].toUpperCase() + theme.slice(1);
    find("theme").setAttribute("aria-label", `${find("theme").textContent} colours`);
  }

  function turn() {
    const theme = themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length];
    wear(theme);
    try {
      localStorage.setItem("kie-async-theme", theme);
    } catch { /* nothing can be kept here */ }
  }

  function kept() {
    try {
      return localStorage.getItem("kie-async-theme");
    } catch {
      return null;
    }
  }

  wear(themes.includes(kept()) ? kept() : "auto");
  find("theme").addEventListener("click", turn);

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

  show();
})();
