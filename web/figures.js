// A figure or drawing opens in the whole window: by a click on it, or by its button with the keyboard.
document.addEventListener("DOMContentLoaded", () => {
  const enlarge = (picture) => {
    const dialog = document.createElement("dialog");
    dialog.className = "figure-large";
    dialog.setAttribute("aria-label", "Enlarged figure");
    const close = document.createElement("button");
    close.type = "button";
    close.textContent = "Close";
    close.addEventListener("click", () => dialog.close());
    const copy = picture.cloneNode(true);
    copy.classList.remove("figure-wide", "figure-narrow");
    copy.addEventListener("click", () => dialog.close());
    dialog.append(close, copy);
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  };
  document.querySelectorAll("figure:has(> svg.drawing, > svg.figure-picture)").forEach((figure) => {
    const shown = () => [...figure.querySelectorAll(":scope > svg")].find((svg) => svg.getClientRects().length);
    const button = document.createElement("button");
    button.type = "button";
    button.className = "figure-enlarge";
    button.textContent = "Enlarge";
    button.addEventListener("click", () => enlarge(shown()));
    figure.classList.add("figure-enlargeable");
    figure.querySelectorAll(":scope > svg").forEach((svg) => svg.addEventListener("click", () => enlarge(svg)));
    figure.append(button);
  });
});
