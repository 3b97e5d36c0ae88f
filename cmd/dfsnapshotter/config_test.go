package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSample holds the README's sample equal to what `config default` prints,
// and what that prints to DefaultConfig.
func TestSample(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)\n```toml\n(# Layers, .*?)```\n").FindSubmatch(readme)
	if m == nil {
		t.Fatal("README.md holds no sample of the configuration")
	}
	var printed bytes.Buffer
	cmd := newCommand()
	cmd.SetOut(&printed)
	cmd.SetArgs([]string{"config", "default"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.TrimSpace(printed.String()), strings.TrimSpace(string(m[1]))); diff != "" {
		t.Errorf("the README's sample is not what `dfsnapshotter config default` prints (-printed +README):\n%s", diff)
	}
	got, err := newProgram().Load(write(t, string(m[1])))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(DefaultConfig(), got); diff != "" {
		t.Errorf("the sample is not the defaults (-default +sample):\n%s", diff)
	}
}

func TestLoadConfig(t *testing.T) {
	t.Parallel()
	changed := DefaultConfig()
	changed.Root, changed.Relay, changed.Cache.Max, changed.Debug.Listen = "/data/df", true, "5GiB", ""
	images := DefaultConfig()
	images.Images = []ImageConfig{{"ml/*", "fill"}, {"*", "eager"}}
	trust := DefaultConfig()
	trust.Index.Trust = []string{"a.example:5000/*", "localhost/x", "*"}
	seed := DefaultConfig()
	seed.Address, seed.Limits.Upload, seed.TLS.Insecure = "", "20MiB", true
	seed.Peer = PeerConfig{
		JoinToken: "/etc/dfsnapshotter/join-token", Schedulers: []string{"s-0:8002", "[::1]:8002"}, Listen: ":65002", Advertise: "seed.example:1", Share: true, Seed: true,
		IDC: "a", Location: "b|c",
	}
	mirrors := DefaultConfig()
	mirrors.Address, mirrors.Mirror.Upstream = "", "http://hub:5000"
	for name, c := range map[string]struct {
		text string
		want Config
	}{
		"mirror only":   {"address = ''\n[mirror]\nupstream = 'http://hub:5000'\n", mirrors},
		"empty":         {"", DefaultConfig()},
		"trust":         {"[index]\ntrust = ['a.example:5000/*', 'localhost/x', '*']\n", trust},
		"images":        {"[[image]]\nmatch = 'ml/*'\nmode = 'fill'\n[[image]]\nmatch = '*'\nmode = 'eager'\n", images},
		"seed":          {"address = ''\n[peer]\nseed = true\nschedulers = ['s-0:8002', '[::1]:8002']\nadvertise = 'seed.example:1'\nidc = 'a'\nlocation = 'b|c'\n[limits]\nupload = '20MiB'\n[tls]\ninsecure = true\n", seed},
		"over defaults": {"root = '/data/df'\nrelay = true\n[cache]\nmax = '5GiB'\n[debug]\nlisten = ''\n", changed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := newProgram().Load(write(t, c.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLoadConfigErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []string // parts of the message, all of them
	}{
		"unknown key":        {"root = '/r'\nroots = '/x'\n", []string{`:2: unknown key "roots"`, "config default"}},
		"unknown in section": {"[cache]\nmax = '1GiB'\nmin = '1B'\n", []string{`:3: unknown key "cache.min"`}},
		"unknown section":    {"[peers]\nlisten = ':1'\n", []string{`unknown key "peers`}},
		"two unknown keys":   {"a = 1\nb = 2\n", []string{`:1: unknown key "a"`, `:2: unknown key "b"`}},
		"syntax":             {"root = \n", []string{":1:"}},
		"not a bool":         {"relay = 'yes'\n", []string{":1:9: relay must be true or false"}},
		"not a string":       {"[cache]\nmax = 5\n", []string{":2:7: cache.max must be a string"}},
		"not a section":      {"cache = '5GiB'\n", []string{":1:9: cache must be a section"}},
		"root of all":        {"root = '//'\n", []string{"root:", "of its own"}},
		"port":               {"[debug]\nlisten = ':99999'\n", []string{"debug.listen:", "host:port"}},
		"relative root":      {"root = 'r'\n", []string{`root: "r" is not an absolute path`}},
		"colon in root":      {"root = '/a:b'\n", []string{"root:", "overlayfs"}},
		"comma in root":      {"root = '/a,b'\n", []string{"root:", "overlayfs"}},
		"relative address":   {"address = 'a.sock'\n", []string{`address: "a.sock" is not an absolute path`}},
		"long address":       {"address = '/" + strings.Repeat("x", 102) + ".sock'\n", []string{"address:", "too long"}},
		"long folder":        {"address = '/" + strings.Repeat("x", 95) + "/a'\n", []string{"address:", "too long"}},
		"size":               {"[cache]\nmax = '50 gigs'\n", []string{"cache.max:", "50GiB"}},
		"listen":             {"[debug]\nlisten = '65004'\n", []string{"debug.listen:", "host:port"}},
		"mirror's port":      {"[mirror]\nlisten = '65001'\n", []string{"mirror.listen:", "host:port"}},
		"mirror's upstream":  {"[mirror]\nupstream = 'ftp://x'\n", []string{"mirror.upstream:", "name of a registry"}},
		"proxy":              {"[registry]\nproxy = 'proxy:3128'\n", []string{"registry.proxy:", "http://proxy:3128"}},
		"plugins' folder":    {"[registry]\ncredential_provider_config = '/c'\n", []string{"credential_provider_bin_dir"}},
		"image's mode":       {"[[image]]\nmatch = 'a'\nmode = 'quick'\n", []string{"image 1: mode \"quick\" is none of 'lazy', 'fill' and 'eager'"}},
		"image's name":       {"[[image]]\nmode = 'fill'\n", []string{"image 1: match is empty"}},
		"image's tag":        {"[[image]]\nmatch = 'a:5000/b:1'\nmode = 'fill'\n", []string{"image 1: match \"a:5000/b:1\" names a tag"}},
		"trust everywhere":   {"[index]\ntrust = ['team/*', 'team*/x', '']\n", []string{`index.trust: "team/*" names no registry`, `"team*/x" names no registry`, "index.trust: is empty"}},
		"image twice":        {"[[image]]\nmatch = 'a'\nmode = 'fill'\n[[image]]\nmatch = 'a'\nmode = 'lazy'\n", []string{"image 2: match \"a\" never counts"}},
		"image's key":        {"[[image]]\nmatch = 'a'\nmodus = 'fill'\n", []string{`:3: unknown key "image.modus"`}},
		"not a list":         {"[peer]\nschedulers = 's:1'\n", []string{":2:14: peer.schedulers must be a list"}},
		"scheduler":          {"[peer]\nschedulers = ['s:1', 's']\n", []string{`peer.schedulers: "s" is not host:port`}},
		"scheduler's host":   {"[peer]\nschedulers = [':8002']\n", []string{`peer.schedulers: ":8002" is not`}},
		"peers' port":        {"[peer]\nlisten = ':http'\n", []string{"peer.listen:", "host:port"}},
		"advertised port":    {"[peer]\nadvertise = 'host:0'\n", []string{"peer.advertise:", "leave it empty"}},
		"advertised host":    {"[peer]\nadvertise = ':65002'\n", []string{"peer.advertise:", "as others can dial it"}},
		"advertised all":     {"[peer]\nadvertise = '[::]:65002'\n", []string{"peer.advertise:"}},
		"managed twice":      {"[peer]\nmanager = 'm:65003'\nschedulers = ['s:8002']\n", []string{"peer.schedulers: the manager says"}},
		"managed in plain":   {"[peer]\nmanager = 'm:65003'\n[tls]\ninsecure = true\n", []string{"tls: peer.manager gives the certificate"}},
		"no manager":         {"[peer]\nmanager = ':65003'\n", []string{"peer.manager:"}},
		"lonely seed":        {"[peer]\nseed = true\n", []string{"peer.seed:", "set peer.schedulers"}},
		"mean seed":          {"[peer]\nseed = true\nshare = false\nschedulers = ['s:1']\n", []string{"peer.share:"}},
		"place":              {"[peer]\nlocation = 'Zürich'\n", []string{"peer.location:", "ASCII"}},
		"no address":         {"address = ''\n[mirror]\nlisten = ''\n", []string{"address:", "peer.seed = true"}},
		"limit":              {"[limits]\nupload = '20 MB'\n", []string{`limits.upload: "20 MB" is not a size`, "0 for no limit"}},
		"negative limit":     {"[limits]\norigin = '-1MiB'\n", []string{"limits.origin:"}},
		"small limit":        {"[limits]\ndownload = '20B'\n", []string{"limits.download:", "16KiB"}},
		"half of tls":        {"[tls]\nca = '/ca'\nkey = '/key'\n", []string{"tls.cert: is empty, but"}},
		"tls and plain":      {"[tls]\nca = '/a'\ncert = '/b'\nkey = '/c'\ninsecure = true\n", []string{"tls.insecure: true contradicts"}},
		"all at once": {
			"root = 'r'\naddress = 'a'\n[cache]\nmax = 'x'\n[debug]\nlisten = 'y'\n[registry]\nproxy = 'z'\ncredential_provider_bin_dir = '/b'\n",
			[]string{"root:", "address:", "cache.max:", "debug.listen:", "registry.proxy:", "credential_provider_config"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := write(t, c.text)
			_, err := newProgram().Load(path)
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, path+":") {
					t.Errorf("%q does not begin with the file's name", line)
				}
			}
		})
	}
}

func TestParseSize(t *testing.T) {
	t.Parallel()
	type result struct {
		N  int64
		OK bool
	}
	want := map[string]result{
		"0B":                      {0, true},
		"512B":                    {512, true},
		"64KiB":                   {64 << 10, true},
		"64 MiB":                  {64 << 20, true},
		"50GiB":                   {50 << 30, true},
		"2TiB":                    {2 << 40, true},
		"":                        {},
		"50":                      {},
		"50GB":                    {},
		"1.5GiB":                  {},
		"-1GiB":                   {},
		"GiB":                     {},
		"9223372036854775807B":    {},
		"99999999TiB":             {},
		"99999999999999999999GiB": {},
	}
	got := map[string]result{}
	for s := range want {
		n, err := parseSize(s)
		got[s] = result{n, err == nil}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestCheck runs the command that people check their file with.
func TestCheck(t *testing.T) {
	t.Parallel()
	good, bad := write(t, "relay = true\n"), write(t, "rely = true\n")
	var out bytes.Buffer
	cmd := newCommand()
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"config", "check", good})
	if err := cmd.Execute(); err != nil || out.String() != good+": ok\n" {
		t.Errorf("check of a good file printed %q, %v", out.String(), err)
	}
	cmd = newCommand()
	cmd.SetArgs([]string{"config", "check", "--config", bad})
	if err := cmd.Execute(); err == nil {
		t.Error("check of a bad file found nothing")
	}
}

func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "dfsnapshotter.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
