package console

import (
	"fmt"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// A bar is one column of a chart, in the coordinates of its picture.
type bar struct {
	X, Width float64
	Parts    []barPart
	Title    string
}

type barPart struct {
	Class     string // a, b, c or o
	Y, Height float64
}

// chart is a picture of columns, 100 high and 240 wide.
type chart struct {
	Bars        []bar
	About       string // for who cannot see it
	Most        string // what the highest column stands for
	Left, Right string // the ends of its axis
}

const chartHeight, columnWidth, gap = 100.0, 10.0, 2.0

// column is what a column of a chart stands for: the sum of its values is its
// height.
type column struct {
	start  time.Time
	values []float64
	title  string
}

// columns draws a column for each hour.
func columns[T any](hours []T, classes []string, of func(T) column) (c chart, most float64) {
	all := make([]column, len(hours))
	for i, h := range hours {
		all[i] = of(h)
		most = max(most, sum(all[i].values))
	}
	for i, h := range all {
		b := bar{X: float64(i)*columnWidth + gap/2, Width: columnWidth - gap, Title: clock(h.start) + ": " + h.title}
		y := chartHeight
		for k, v := range h.values {
			if v == 0 {
				continue
			}
			height := max(v/most*chartHeight, 1.5) // a little is not nothing
			y -= height
			b.Parts = append(b.Parts, barPart{classes[k], y, height})
		}
		c.Bars = append(c.Bars, b)
	}
	c.Left, c.Right = clock(all[0].start), "now"
	return c, most
}

func sum(all []float64) (s float64) {
	for _, v := range all {
		s += v
	}
	return s
}

func clock(t time.Time) string { return t.UTC().Format("15:04") }

// bytesChart shows how much was preheated each hour.
func bytesChart(hours []store.JobHour) chart {
	c, most := columns(hours, []string{"a"}, func(h store.JobHour) column { return column{h.Start, []float64{float64(h.Bytes)}, size(h.Bytes)} })
	c.Most = size(int64(most))
	c.About = fmt.Sprintf("Bytes preheated in each of the last %d hours; %s in the hour with most.", len(hours), c.Most)
	return c
}

// jobsChart shows how jobs ended each hour.
func jobsChart(hours []store.JobHour) chart {
	c, most := columns(hours, []string{"b", "c"}, func(h store.JobHour) column {
		return column{h.Start, []float64{float64(h.Succeeded), float64(h.Failed)}, fmt.Sprintf("%d succeeded, %d failed", h.Succeeded, h.Failed)}
	})
	c.Most = fmt.Sprintf("%.0f", most)
	c.About = fmt.Sprintf("Jobs that succeeded and failed in each of the last %d hours; %s in the hour with most.", len(hours), c.Most)
	return c
}
