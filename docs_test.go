package dfsnapshotter_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// page is a guide: what users do as it says.
type page struct {
	path string
	text string
}

func pages(t *testing.T) []page {
	t.Helper()
	files, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []page
	for _, path := range append(files, "README.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page{path, string(text)})
	}
	return all
}

var fence = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")

// blocks returns the page's blocks of code in one of these languages.
func (p page) blocks(languages ...string) []string {
	var all []string
	for _, m := range fence.FindAllStringSubmatch(p.text, -1) {
		if slices.Contains(languages, m[1]) {
			all = append(all, m[2])
		}
	}
	return all
}

var (
	title  = regexp.MustCompile(`(?m)^#+ (.*)$`)
	link   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	unslug = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns what links may name behind the #, made of titles as GitHub does.
func (p page) anchors() []string {
	var all []string
	for _, m := range title.FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
		all = append(all, strings.ReplaceAll(unslug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return all
}

// TestDocsLinks follows the links between guides.
func TestDocsLinks(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for _, p := range all {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(m[1], "#")
			to := p.path
			if path != "" {
				to = filepath.Join(filepath.Dir(p.path), path)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: link to %s: %v", p.path, m[1], err)
			}
			i := slices.IndexFunc(all, func(q page) bool { return q.path == to })
			if anchor != "" && (i < 0 || !slices.Contains(all[i].anchors(), anchor)) {
				t.Errorf("%s: link to %s: there is no such section", p.path, m[1])
			}
		}
		if name := filepath.Base(p.path); p.path != "README.md" && !strings.Contains(all[len(all)-1].text, "docs/"+name) {
			t.Errorf("README.md does not name %s", p.path)
		}
	}
}

// program is one of ours, built for this test.
type program string

func programs(t *testing.T) map[string]program {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir+"/", "./cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	all := map[string]program{}
	for _, name := range []string{"dfget", "dfmanager", "dfscheduler", "dfsnapshotter"} {
		all[name] = program(filepath.Join(dir, name))
	}
	return all
}

// daemons are the programs with a configuration file.
var daemons = []string{"dfmanager", "dfscheduler", "dfsnapshotter"}

// absent are files that a configuration names, and that are not on this machine.
var absent = regexp.MustCompile(`(?m)^.*no such file or directory\n?`)

// check returns what a program does not like in a configuration.
func (p program) check(path string) string {
	out, err := exec.Command(string(p), "config", "check", path).CombinedOutput()
	if err == nil {
		return ""
	}
	return absent.ReplaceAllString(string(out), "")
}

// foreign are tables and keys, one of which is in each file of other programs that the
// guides show: containerd's configuration, its hosts.toml, podman's registries.conf.
var foreign = []string{"plugins", "proxy_plugins", "server", "host", "imports", "registry.mirror"}

func isForeign(text string) bool {
	var keys map[string]any
	if toml.Unmarshal([]byte(text), &keys) != nil {
		return false
	}
	_, mirrors := keys["registry"].([]any) // ours is a table, podman's a list
	return mirrors || slices.ContainsFunc(foreign, func(k string) bool { return keys[k] != nil })
}

// othersSettings look like ours in the guides, and are containerd's, podman's and Dragonfly's.
var othersSettings = []string{"registry.mirrors", "registry.configs", "registry.config_path", "registries.conf", "auth.jwt.key"}

// TestDocs holds what the guides show of our programs against the programs.
func TestDocs(t *testing.T) {
	t.Parallel()
	bin := programs(t)
	t.Run("settings", func(t *testing.T) { testSettings(t, bin) })
	t.Run("commands", func(t *testing.T) { testCommands(t, bin) })
}

// testSettings has the daemons read the configuration files of the guides, and looks
// whether they have the settings that the text names.
func testSettings(t *testing.T, bin map[string]program) {
	settings := map[string]bool{}
	sections := map[string]bool{}
	for _, name := range daemons {
		text, err := exec.Command(string(bin[name]), "config", "default").Output()
		if err != nil {
			t.Fatal(err)
		}
		var keys map[string]any
		if err := toml.Unmarshal(text, &keys); err != nil {
			t.Fatal(err)
		}
		gather("", keys, settings, sections)
	}
	named := regexp.MustCompile("`([a-z_]+)((?:\\.[a-z_]+)+)(?: = [^`]*)?`")
	file := filepath.Join(t.TempDir(), "c.toml")
	for _, p := range pages(t) {
		for _, text := range p.blocks("toml") {
			if isForeign(text) {
				continue
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var says []string
			for _, name := range daemons {
				says = append(says, bin[name].check(file))
			}
			if !slices.Contains(says, "") {
				t.Errorf("%s: no daemon takes\n%s\nThey say:\n%s", p.path, text, strings.Join(says, ""))
			}
		}
		for _, m := range named.FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
			if sections[m[1]] && !settings[m[1]+m[2]] && !slices.Contains(othersSettings, m[1]+m[2]) {
				t.Errorf("%s: there is no setting %s%s", p.path, m[1], m[2])
			}
		}
	}
}

// gather adds the names of keys and tables.
func gather(prefix string, keys map[string]any, settings, sections map[string]bool) {
	for k, v := range keys {
		settings[prefix+k] = true
		if table, ok := v.(map[string]any); ok {
			sections[prefix+k] = true
			gather(prefix+k+".", table, settings, sections)
		}
	}
}

// help is what a command says of itself, by its words.
type help map[string]string

func (h help) of(t *testing.T, p program, words []string) string {
	t.Helper()
	key := fmt.Sprint(p, words)
	if h[key] == "" {
		out, err := exec.Command(string(p), append(words, "--help")...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v --help: %v: %s", p, words, err, out)
		}
		h[key] = string(out)
	}
	return h[key]
}

var (
	command = regexp.MustCompile(`(?m)(?:^|[|;&] |\(|sudo (?:-u \w+ )?)(dfget|dfmanager|dfscheduler|dfsnapshotter)((?: [^|;&#()<>\n]*)?)`)
	span    = regexp.MustCompile("`([^`\n]+)`")
	word    = regexp.MustCompile(`^[a-z][a-z-]*$`)
	option  = regexp.MustCompile(`^(--?[a-zA-Z][a-z-]*)`)
)

// commands returns the calls of our programs that a page shows.
func (p page) commands() [][]string {
	code := p.blocks("", "bash")
	for _, m := range span.FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
		code = append(code, m[1])
	}
	var all [][]string
	for _, text := range code {
		for _, m := range command.FindAllStringSubmatch(strings.ReplaceAll(text, "\\\n", " "), -1) {
			all = append(all, append([]string{m[1]}, strings.Fields(m[2])...))
		}
	}
	return all
}

// testCommands looks whether our programs have the commands and options that the guides
// call them with.
func testCommands(t *testing.T, bin map[string]program) {
	says := help{}
	var checked int
	for _, p := range pages(t) {
		for _, c := range p.commands() {
			var words []string
			rest := c[1:]
			for len(rest) > 0 && word.MatchString(rest[0]) {
				text := says.of(t, bin[c[0]], words)
				_, list, ok := strings.Cut(text, "Available Commands:")
				if !ok {
					break
				}
				if !strings.Contains(list, "\n  "+rest[0]+" ") {
					t.Errorf("%s: %q: there is no command %s", p.path, strings.Join(c, " "), rest[0])
					break
				}
				words, rest = append(words, rest[0]), rest[1:]
			}
			text := says.of(t, bin[c[0]], words)
			for _, a := range rest {
				m := option.FindStringSubmatch(a)
				if m == nil {
					continue
				}
				checked++
				if !regexp.MustCompile(`(?m)^ +(-\w, )?` + m[1] + `\b`).MatchString(text) {
					t.Errorf("%s: %q: there is no option %s", p.path, strings.Join(c, " "), m[1])
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d options were found in the guides", checked)
	}
}
