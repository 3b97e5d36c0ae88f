package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
)

// showEvery is how often the line on the terminal changes.
const showEvery = 200 * time.Millisecond

// progress is a line on the terminal.
type progress struct {
	terminal io.Writer // nil: there is none
	name     string

	began, shown time.Time
	first        int64 // bytes that were there
	size, total  int64 // total -1: unknown
	sources      agent.From
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func (p *progress) begin(have, total int64) {
	p.began, p.first, p.size, p.total = time.Now(), have, have, total
}

func (p *progress) from(f agent.From) { p.sources = f }

func (p *progress) came(size int64) {
	p.size = size
	if p.terminal != nil && time.Since(p.shown) >= showEvery {
		p.shown = time.Now()
		_, _ = fmt.Fprintf(p.terminal, "\r\033[K%s", p.line(p.shown))
	}
}

// line says how far the download is.
func (p *progress) line(now time.Time) string {
	rate := float64(p.size-p.first) / max(now.Sub(p.began).Seconds(), 0.001)
	text := fmt.Sprintf("%s  %s", p.name, bytesText(p.size))
	if p.total > 0 {
		const width = 24
		full := int(min(p.size*width/p.total, width))
		text = fmt.Sprintf("%s  %3d %% [%s%s] %s of %s", p.name, p.size*100/p.total,
			strings.Repeat("#", full), strings.Repeat(".", width-full), bytesText(p.size), bytesText(p.total))
	}
	text += fmt.Sprintf("  %s/s", bytesText(int64(rate)))
	if s := sourcesText(p.sources); s != "" {
		text += "  " + s
	}
	if p.total > p.size && rate > 0 {
		text += fmt.Sprintf("  %s left", time.Duration(float64(p.total-p.size)/rate*float64(time.Second)).Round(time.Second))
	}
	return text
}

// sourcesText says where bytes came from, in percent.
func sourcesText(f agent.From) string {
	all := f.Peers + f.Origin + f.Cache
	var parts []string
	for _, s := range []struct {
		name string
		n    int64
	}{{"peers", f.Peers}, {"server", f.Origin}, {"cache", f.Cache}} {
		if s.n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d %%", s.name, s.n*100/all))
		}
	}
	return strings.Join(parts, ", ")
}

// clear takes the line away.
func (p *progress) clear() {
	if p.terminal != nil && !p.shown.IsZero() {
		_, _ = fmt.Fprint(p.terminal, "\r\033[K")
	}
}

func (p *progress) end() { p.clear() }

func bytesText(n int64) string {
	for i, unit := range []string{"GiB", "MiB", "KiB"} {
		if size := int64(1) << (10 * (3 - i)); n >= size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(size), unit)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// report says how the download went.
func (d *download) report(asJSON, quiet bool) error {
	r := d.result
	switch {
	case asJSON && d.output == "-":
		return json.NewEncoder(d.log).Encode(r)
	case asJSON:
		return json.NewEncoder(d.out).Encode(r)
	case quiet:
		return nil
	}
	rate := int64(float64(r.Size) / max(r.Took, 0.001))
	_, err := fmt.Fprintf(d.log, "%s  %s in %s, %s/s  %s\n", r.File, bytesText(r.Size), time.Duration(r.Took*float64(time.Second)).Round(time.Millisecond),
		bytesText(rate), sourcesText(r.From))
	return err
}
