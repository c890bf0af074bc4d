import { Chat } from "./chat.js";
import { loadMe, loadPending, loadTheme, saveMe, savePending, saveTheme } from "./store.js";
import { $, Page } from "./view.js";

const LOBBY = "lobby";

/** The chat's address: a URL, or a port and a path of the page's own host. */
function address(): string {
  const a = document.querySelector<HTMLMetaElement>("meta[name=chat-address]")!.content;
  return a.startsWith(":") ? `${location.protocol === "https:" ? "wss" : "ws"}://${location.hostname}${a}` : a;
}

function roomOf(hash: string): string {
  try {
    return [...decodeURIComponent(hash.slice(1)).trim()].slice(0, 32).join("") || LOBBY;
  } catch {
    return LOBBY;
  }
}

const ask = $<HTMLDialogElement>("ask"), name = $<HTMLInputElement>("name"), text = $<HTMLTextAreaElement>("text");

function askName(why = ""): void {
  name.value = chat.me.name;
  $("why").textContent = why;
  if (!ask.open) ask.showModal();
  name.select();
}

const page = new Page(
  (key, again) => chat.settle(key, again),
  (room) => (location.hash = "#" + encodeURIComponent(room)),
  askName,
  savePending,
);
const chat = new Chat(address(), loadMe(), roomOf(location.hash), loadPending(), page);

function showMe(): void { $("me").textContent = chat.me.name || "?"; }

function menu(open: boolean): void {
  document.body.classList.toggle("menu", open);
  $("menu").setAttribute("aria-expanded", String(open));
}

function grow(): void {
  text.style.setProperty("height", "auto");
  text.style.setProperty("height", Math.min(text.scrollHeight, 160) + "px");
}

function submit(): void {
  if (text.value.trim() === "") return;
  const body = text.value.trimEnd();
  if (new TextEncoder().encode(body).length > 2000) return page.trouble("too long for one line");
  if (!chat.say(body)) return page.trouble("too many lines wait to be sent");
  text.value = "";
  grow();
}

onhashchange = () => {
  chat.enter(roomOf(location.hash));
  page.show(chat.room);
  page.pending(chat.pending);
  void chat.look();
  menu(false);
};
$("say").onsubmit = (e) => {
  e.preventDefault();
  submit();
};
text.onkeydown = (e) => {
  if (e.key !== "Enter" || e.shiftKey || e.isComposing) return;
  e.preventDefault();
  submit();
};
text.oninput = grow;
$("enter").onsubmit = (e) => {
  e.preventDefault();
  const to = $<HTMLInputElement>("room");
  if (to.value.trim()) location.hash = "#" + encodeURIComponent(to.value.trim());
  to.value = "";
};
$("named").onsubmit = (e) => {
  e.preventDefault();
  const n = name.value.trim();
  if (!n) return;
  ask.close();
  chat.rename(n);
  saveMe(chat.me);
  showMe();
  text.focus();
};
ask.oncancel = (e) => {
  if (!chat.me.name) e.preventDefault();
};
$("me").onclick = () => askName();
$("menu").onclick = () => menu(!document.body.classList.contains("menu"));

const theme = (t: string) => (document.documentElement.dataset["theme"] = t);
theme(loadTheme());
$("theme").onclick = () => {
  const dark = document.documentElement.dataset["theme"] || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const t = dark === "dark" ? "light" : "dark";
  theme(t);
  saveTheme(t);
};

page.show(chat.room);
page.pending(chat.pending);
page.rooms([]);
showMe();
if (!chat.me.name) askName();
setInterval(() => document.hidden || void chat.look(), 10_000);
