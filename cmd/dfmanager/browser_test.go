package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

var pictures = flag.String("pictures", "", "folder that TestConsole puts pictures of all pages into")

// visitor is somebody with a browser.
type visitor struct {
	t    *testing.T
	ctx  context.Context
	base string

	mu       sync.Mutex // guards what follows
	problems []string   // what the browser complained of
	lost     []string   // why pages could not be loaded
}

// browser is where Chromium is. Without it the test is skipped.
func browser(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed")
	}
	return path
}

// visit starts Chromium with a profile of its own.
func visit(t *testing.T, base string, flags ...chromedp.ExecAllocatorOption) *visitor {
	t.Helper()
	options := append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(browser(t)), chromedp.UserDataDir(t.TempDir()), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.WindowSize(1280, 900),
	}, flags...)
	all, endAll := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, end := chromedp.NewContext(all)
	v := &visitor{t: t, base: base}
	t.Cleanup(func() {
		end()
		endAll()
	})
	if err := chromedp.Listen(ctx, v.hear); err != nil { // starts it
		t.Fatal(err)
	}
	var stop context.CancelFunc
	v.ctx, stop = context.WithTimeout(ctx, 4*time.Minute)
	t.Cleanup(stop)
	v.do(chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, log.Enable, cdp.Empty{})
		return err
	}))
	return v
}

// hear collects what must not happen: scripts that fail, and what the pages'
// policy forbids. Answers that are refusals are expected.
func (v *visitor) hear(event any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch e := event.(type) {
	case *network.EventLoadingFailed:
		if e.Type == network.ResourceTypeDocument && !e.Canceled {
			v.lost = append(v.lost, e.ErrorText)
		}
	case *log.EventEntryAdded:
		if e.Entry.Source != log.EntrySourceNetwork && e.Entry.Level == log.EntryLevelError || e.Entry.Source == log.EntrySourceSecurity {
			v.problems = append(v.problems, e.Entry.Text)
		}
	case *runtime.EventExceptionThrown:
		v.problems = append(v.problems, e.ExceptionDetails.Text)
	case *runtime.EventConsoleAPICalled:
		for _, a := range e.Args {
			v.problems = append(v.problems, fmt.Sprintf("%s %s", e.Type, a.Value))
		}
	}
}

// do does things with the browser.
func (v *visitor) do(actions ...chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, time.Minute) // a browser that is stuck is said where it is
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		v.fail(err)
	}
}

func (v *visitor) fail(why any) {
	v.t.Helper()
	text, _ := chromedp.Run(v.ctx, chromedp.Evaluate[string]("location.href + '\\n' + document.body.innerText")) // why is what counts
	v.mu.Lock()
	defer v.mu.Unlock()
	v.t.Fatalf("%v at %s; pages that could not be loaded: %q", why, text, v.lost)
}

// eval returns what an expression is in the page, or what it resolves to.
func eval[T any](v *visitor, expression string) T {
	v.t.Helper()
	got, err := chromedp.Run(v.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		v.fail(fmt.Errorf("%s: %w", expression, err))
	}
	return got
}

// open goes to a page.
func (v *visitor) open(path string) {
	v.t.Helper()
	v.do(chromedp.Navigate(v.base + path))
}

// wait waits until a condition holds in the page. There is none for a moment
// between two pages.
func (v *visitor) wait(condition string) {
	v.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < 30*time.Second; <-tick.C {
		if is, err := chromedp.Run(v.ctx, chromedp.Evaluate[bool]("!!document.body && !!("+condition+")")); err == nil && is {
			return
		}
	}
	v.fail("it does not become true that " + condition)
}

// at waits until the browser shows a page.
func (v *visitor) at(path string) {
	v.t.Helper()
	v.wait(fmt.Sprintf("location.pathname == %q && document.readyState == 'complete'", path))
}

// see waits until a text is shown.
func (v *visitor) see(text string) {
	v.t.Helper()
	v.wait(fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

// press presses the button or link with a name.
func (v *visitor) press(name string) {
	v.t.Helper()
	v.do(chromedp.Click(fmt.Sprintf("//*[self::main or @class='me']//*[self::button or self::a or self::summary][normalize-space()=%q]", name)))
}

func (v *visitor) fill(id, text string) {
	v.t.Helper()
	v.wait(fmt.Sprintf("document.getElementById(%q)", id))
	eval[string](v, fmt.Sprintf("document.getElementById(%q).value = ''", id))
	v.do(chromedp.SendKeys(chromedp.ID(id), text))
}

func (v *visitor) signIn(name, password string) {
	v.t.Helper()
	v.fill("name", name)
	v.fill("password", password)
	v.press("Sign in")
}

// first changes a first password, as everybody is made to.
func (v *visitor) first(old, fresh string) {
	v.t.Helper()
	v.at("/password")
	v.fill("old", old)
	v.fill("new", fresh)
	v.fill("again", fresh)
	v.press("Change password")
	v.at("/")
}

// post sends a form as a script of the page would, and returns the status.
func (v *visitor) post(path, form string) int {
	v.t.Helper()
	return eval[int](v, fmt.Sprintf(`fetch(%q, {method: "POST", body: new URLSearchParams(%q), redirect: "manual"}).then(r => r.status)`, path, form))
}

// usable says what keeps people from using the page that is shown: names that
// are missing, text that is hard to read, content beyond the window.
const usable = `(() => {
	const bad = [];
	for (const e of document.querySelectorAll("input:not([type=hidden]), select"))
		if (!e.labels.length) bad.push("no label: " + e.outerHTML);
	for (const e of document.querySelectorAll("button, a, summary"))
		if (!e.textContent.trim() && !e.getAttribute("aria-label")) bad.push("no name: " + e.outerHTML);
	for (const e of document.querySelectorAll("table"))
		if (!e.closest("[aria-label]")) bad.push("table without a name");
	if (document.querySelectorAll("h1").length != 1 || document.querySelectorAll("main").length != 1) bad.push("not one h1 and one main");
	const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
	for (const id of ids) if (ids.indexOf(id) != ids.lastIndexOf(id)) bad.push("twice: " + id);
	const wide = document.documentElement.scrollWidth - innerWidth;
	if (wide > 0) bad.push("wider than the window by " + wide);
	const parse = s => s.match(/[\d.]+/g).map(Number);
	const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] == 1) return c; } return [255, 255, 255]; };
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (texts.nextNode()) {
		const e = texts.currentNode.parentElement;
		if (!texts.currentNode.textContent.trim() || !e.checkVisibility() || e.closest("svg, .hidden, progress")) continue;
		const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
		if ((a + 0.05) / (b + 0.05) < 4.5) bad.push("contrast " + ((a + 0.05) / (b + 0.05)).toFixed(2) + ": " + texts.currentNode.textContent.trim());
	}
	return bad;
})()`

// looks are how pages are looked at.
var looks = []struct {
	name, scheme  string
	width, height int64
}{{"light", "light", 1280, 900}, {"dark", "dark", 1280, 900}, {"phone", "light", 360, 740}}

// scheme makes the browser prefer colours, and no movement.
func scheme(colours string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: colours}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	})
}

// look checks the page that is shown in all looks, and takes pictures if they are
// asked for.
func (v *visitor) look(name string) {
	v.t.Helper()
	for _, l := range looks {
		v.do(chromedp.EmulateViewport(l.width, l.height), scheme(l.scheme))
		for _, bad := range eval[[]string](v, usable) {
			v.t.Errorf("%s, %s: %s", name, l.name, bad)
		}
		if *pictures == "" {
			continue
		}
		png, err := chromedp.Run(v.ctx, chromedp.FullScreenshot(100))
		if err != nil {
			v.fail(err)
		}
		if err := os.WriteFile(filepath.Join(*pictures, name+"-"+l.name+".png"), png, 0o644); err != nil {
			v.t.Fatal(err)
		}
	}
	v.do(chromedp.EmulateViewport(looks[0].width, looks[0].height), scheme(looks[0].scheme))
}
