package store

import (
	"slices"
	"sort"
)

// Range is the bytes [Off, Off+Len) of a blob.
type Range struct{ Off, Len int64 }

// End returns the offset after the last byte.
func (r Range) End() int64 { return r.Off + r.Len }

// ranges is a set of bytes as sorted ranges that neither overlap nor touch.
type ranges []Range

// add puts [off, end) into the set and returns how many bytes were new.
func (s *ranges) add(off, end int64) int64 {
	if off >= end {
		return 0
	}
	r := *s
	i := sort.Search(len(r), func(i int) bool { return r[i].End() >= off })
	j := i + sort.Search(len(r)-i, func(k int) bool { return r[i+k].Off > end })
	fresh := end - off
	lo, hi := off, end
	for _, o := range r[i:j] {
		fresh -= max(0, min(o.End(), end)-max(o.Off, off))
		lo, hi = min(lo, o.Off), max(hi, o.End())
	}
	*s = slices.Replace(r, i, j, Range{lo, hi - lo})
	return fresh
}

// remove takes [off, end) out of the set and returns how many bytes it held.
func (s *ranges) remove(off, end int64) int64 {
	r := *s
	i := sort.Search(len(r), func(i int) bool { return r[i].End() > off })
	j := i + sort.Search(len(r)-i, func(k int) bool { return r[i+k].Off >= end })
	if off >= end || i == j {
		return 0
	}
	var gone int64
	var rest []Range
	for _, o := range r[i:j] {
		lo, hi := max(o.Off, off), min(o.End(), end)
		gone += hi - lo
		if o.Off < lo {
			rest = append(rest, Range{o.Off, lo - o.Off})
		}
		if hi < o.End() {
			rest = append(rest, Range{hi, o.End() - hi})
		}
	}
	*s = slices.Replace(r, i, j, rest...)
	return gone
}

// present returns how many bytes from off on, before end, are in the set
// without a gap.
func (s ranges) present(off, end int64) int64 {
	i := sort.Search(len(s), func(i int) bool { return s[i].End() > off })
	if i == len(s) || s[i].Off > off {
		return 0
	}
	return max(0, min(s[i].End(), end)-off)
}

// missing returns the parts of [off, end) that are not in the set.
func (s ranges) missing(off, end int64) []Range {
	var out []Range
	for i := sort.Search(len(s), func(i int) bool { return s[i].End() > off }); i < len(s) && s[i].Off < end; i++ {
		if s[i].Off > off {
			out = append(out, Range{off, s[i].Off - off})
		}
		off = s[i].End()
	}
	if off < end {
		out = append(out, Range{off, end - off})
	}
	return out
}

// bytes returns how many bytes the set holds.
func (s ranges) bytes() int64 {
	var n int64
	for _, r := range s {
		n += r.Len
	}
	return n
}
