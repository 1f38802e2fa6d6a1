// Keys of the tab that is open: a button with the class ft-key-x is pressed by x; space plays its clips in turn.
// Files above the limit are refused in words: Gradio itself says no more than "Error" where the file would be.
() => {
  const play = (videos) => {
    if (!videos.length) return;
    for (const video of videos) { video.pause(); video.currentTime = 0; video.onended = null; }
    videos.forEach((video, n) => { video.onended = () => videos[n + 1]?.play(); });
    videos[0].play();
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const tab = [...document.querySelectorAll(".ft-keys")].find((element) => element.offsetParent !== null);
    if (!tab) return;
    if (event.key === " ") {
      event.preventDefault();
      document.activeElement?.blur();
      play([...tab.querySelectorAll("video")]);
      return;
    }
    if (!/^[a-z]$/i.test(event.key)) return;
    const button = [...tab.querySelectorAll(`button.ft-key-${event.key.toLowerCase()}`)]
      .find((element) => element.offsetParent !== null);
    if (button) { event.preventDefault(); button.click(); }
  });
  const refuse = (event) => {
    const note = document.querySelector(".ft-too-large");
    const files = [...(event.target.files ?? event.dataTransfer?.files ?? [])];
    if (!note || !files.length) return;
    const large = files.find((file) => file.size > note.dataset.limit);
    note.textContent = large ? `${large.name} is larger than ${note.dataset.limit / 2 ** 20} MB; give a smaller file.` : "";
    if (!large) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.type === "change") event.target.value = "";
    else event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));
  };
  for (const type of ["change", "drop"]) window.addEventListener(type, refuse, true);
}
