package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// table collects samples by row and column and shows their medians, and how
// each compares with the first column: the median of the ratios of samples that
// were taken in the same round, since the machine's speed drifts.
type table struct {
	title   string
	rows    []string
	columns []string
	units   map[string]string
	samples map[[2]string][]float64
}

// newTable returns a table with the columns named, in this order, and those to
// come behind them.
func newTable(title string, columns ...string) *table {
	return &table{title: title, columns: columns, units: map[string]string{}, samples: map[[2]string][]float64{}}
}

func (t *table) add(row, unit, column string, v float64) {
	if !slices.Contains(t.rows, row) {
		t.rows = append(t.rows, row)
		t.units[row] = unit
	}
	if !slices.Contains(t.columns, column) {
		t.columns = append(t.columns, column)
	}
	k := [2]string{row, column}
	t.samples[k] = append(t.samples[k], v)
}

// median returns the median of a cell.
func (t *table) median(row, column string) (float64, bool) {
	return median(t.samples[[2]string{row, column}])
}

func median(samples []float64) (float64, bool) {
	s := slices.Sorted(slices.Values(samples))
	if len(s) == 0 {
		return 0, false
	}
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2, true
}

// ratio returns how a cell compares with the first column's.
func (t *table) ratio(row, column string) (float64, bool) {
	first, s := t.samples[[2]string{row, t.columns[0]}], t.samples[[2]string{row, column}]
	var ratios []float64
	for i := range min(len(first), len(s)) {
		if first[i] > 0 {
			ratios = append(ratios, s[i]/first[i])
		}
	}
	return median(ratios)
}

func (t *table) String() string {
	var b strings.Builder
	fmt.Fprintln(&b, t.title)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\t%s\n", strings.Join(t.columns, "\t"))
	for _, row := range t.rows {
		fmt.Fprint(w, row)
		for i, column := range t.columns {
			m, ok := t.median(row, column)
			ratio, compares := t.ratio(row, column)
			switch {
			case !ok:
				fmt.Fprint(w, "\t")
			case i > 0 && compares:
				fmt.Fprintf(w, "\t%s (%.2f×)", value(m, t.units[row]), ratio)
			default:
				fmt.Fprintf(w, "\t%s", value(m, t.units[row]))
			}
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	return b.String()
}

func value(v float64, unit string) string {
	digits := 1
	switch {
	case unit == "":
		digits = 0
	case unit == "s" && v < 10:
		digits = 3
	}
	return strings.TrimSpace(fmt.Sprintf("%.*f %s", digits, v, unit))
}

// MarshalJSON writes medians and samples.
func (t *table) MarshalJSON() ([]byte, error) {
	type cell struct {
		Row, Column, Unit string
		Median            float64
		Samples           []float64
	}
	out := struct {
		Title string
		Cells []cell
	}{Title: t.title}
	for _, row := range t.rows {
		for _, column := range t.columns {
			if m, ok := t.median(row, column); ok {
				out.Cells = append(out.Cells, cell{strings.TrimSpace(row), column, t.units[row], m, t.samples[[2]string{row, column}]})
			}
		}
	}
	return json.Marshal(out)
}
