// Keys, copying, and the pause of what is live. Every page works without this file.
(() => {
  "use strict";
  const one = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];

  for (const button of all("[data-copy]")) {
    if (!navigator.clipboard) break;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      const label = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = label; }, 1200);
    });
  }

  let at = -1;
  const move = (step) => {
    const rows = all("[data-row]");
    if (rows.length === 0) return;
    rows[at]?.classList.remove("at");
    at = Math.min(Math.max(at + step, 0), rows.length - 1);
    rows[at].classList.add("at");
    rows[at].querySelector("a")?.focus({ preventScroll: true });
    rows[at].scrollIntoView({ block: "nearest" });
  };
  const keys = {
    "/": () => one("[data-filter]")?.focus(),
    j: () => move(1),
    k: () => move(-1),
    r: () => one("[data-reason]")?.focus(),
    n: () => one("a[rel=next]")?.click(),
    "?": () => one("#keys").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, dialog")) {
      if (event.key === "Escape") event.target.blur?.();
      return;
    }
    const act = keys[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });

  // What asks again and again does not while nobody looks.
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden) event.preventDefault();
  });

  // The stream is closed while nobody looks, and on demand.
  const live = one("#live");
  if (live && window.htmx) {
    const state = one("#live-state");
    const pause = one("#live-pause");
    let open = true;
    state.parentElement.hidden = false;
    const paused = () => pause.getAttribute("aria-pressed") === "true";
    const tell = (text) => { if (state.textContent !== text) state.textContent = text; };
    const apply = () => {
      const wanted = !paused() && !document.hidden;
      if (wanted === open) return;
      open = wanted;
      htmx.trigger(live, open ? "htmx:afterProcessNode" : "htmx:beforeCleanupElement");
      tell(open ? "connecting" : "paused");
    };
    pause.addEventListener("click", () => {
      pause.setAttribute("aria-pressed", String(!paused()));
      pause.textContent = paused() ? "Resume" : "Pause";
      apply();
    });
    document.addEventListener("visibilitychange", apply);
    live.addEventListener("htmx:sseOpen", () => tell("live"));
    live.addEventListener("htmx:sseError", () => { if (open) tell("connection lost, trying again"); });
    // A fragment that replaces what has the focus or is selected would be in the way.
    live.addEventListener("htmx:sseBeforeMessage", (event) => {
      const selected = String(getSelection());
      if (live.contains(document.activeElement) || (selected && live.contains(getSelection().anchorNode))) event.preventDefault();
    });
  }
})();
