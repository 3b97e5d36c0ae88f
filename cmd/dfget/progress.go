package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
)

// showEvery is how often the line on the terminal changes.
const showEvery = 200 * time.Millisecond

// progress is a line on the terminal.
type progress struct {
	terminal.Line
	name string

	began, shown time.Time
	first        int64 // bytes that were there
	size, total  int64 // total -1: unknown
	sources      agent.From
}

func (p *progress) begin(have, total int64) {
	p.began, p.first, p.size, p.total = time.Now(), have, have, total
}

func (p *progress) from(f agent.From) { p.sources = f }

func (p *progress) came(size int64) {
	p.size = size
	if now := time.Now(); now.Sub(p.shown) >= showEvery {
		p.shown = now
		p.Show(p.line(now, ""))
	}
}

// line says how far the download is; more, if it is not empty, stands at its end.
func (p *progress) line(now time.Time, more string) string {
	rate := float64(p.size-p.first) / max(now.Sub(p.began).Seconds(), 0.001)
	text := terminal.Size(p.size)
	if p.total > 0 {
		const width = 24
		full := int(min(p.size*width/p.total, width))
		text = fmt.Sprintf("%3d %% [%s%s] %s of %s", p.size*100/p.total,
			strings.Repeat("#", full), strings.Repeat(".", width-full), terminal.Size(p.size), terminal.Size(p.total))
	}
	text += fmt.Sprintf("  %s/s", terminal.Size(int64(rate)))
	if s := sourcesText(p.sources); s != "" {
		text += "  " + s
	}
	if p.total > p.size && rate > 0 {
		text += fmt.Sprintf("  %s left", time.Duration(float64(p.total-p.size)/rate*float64(time.Second)).Round(time.Second))
	}
	if more != "" {
		text += "  " + more
	}
	return p.shortName(len(text)) + "  " + text
}

// shortName is as much of the name's end as leaves room for so much on the line.
func (p *progress) shortName(rest int) string {
	const least, gaps = 12, 3 // before the rest, and at the end
	all, columns := []rune(p.name), p.Columns()
	room := max(columns-rest-gaps, least)
	if columns == 0 || len(all) <= room {
		return p.name
	}
	return "…" + string(all[len(all)-room+1:])
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
	_, err := fmt.Fprintf(d.log, "%s  %s in %s, %s/s  %s\n", r.File, terminal.Size(r.Size), time.Duration(r.Took*float64(time.Second)).Round(time.Millisecond),
		terminal.Size(rate), sourcesText(r.From))
	return err
}
