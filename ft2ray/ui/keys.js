// Keys of the tab that is open: a button with the class ft-key-x is pressed by x; space plays its clips in turn.
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
}
