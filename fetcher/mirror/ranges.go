package mirror

import (
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// maxRanges is how many ranges of one request are answered; with more of them the
// whole blob is sent, as HTTP allows.
const maxRanges = 256

// span is the bytes [off, off+n) of a blob.
type span struct{ off, n int64 }

// parseRange reads the value of a Range header. No ranges: it is to be ignored.
// The error is the answer to ranges none of which lies in the blob.
func parseRange(header string, size int64) ([]span, error) {
	unit, list, ok := strings.Cut(header, "=")
	if !ok || !strings.EqualFold(textproto.TrimString(unit), "bytes") || strings.Count(list, ",") >= maxRanges {
		return nil, nil
	}
	var spans []span
	var sum int64
	outside := false
	for part := range strings.SplitSeq(list, ",") {
		part = textproto.TrimString(part)
		if part == "" {
			continue
		}
		s, ok := parseSpan(part, size)
		switch {
		case !ok:
			return nil, nil
		case s.n == 0:
			outside = true
		default:
			spans = append(spans, s)
			if sum += s.n; sum > size { // more than the blob: overlapping ones
				return nil, nil
			}
		}
	}
	if len(spans) == 0 && outside {
		r := refuse(http.StatusRequestedRangeNotSatisfiable, codeRangeInvalid, "the blob has %d bytes, and none in %q", size, header)
		r.size = size
		return nil, r
	}
	return spans, nil
}

// parseSpan reads "first-last", "first-" or "-length". A span of no bytes lies
// outside the blob.
func parseSpan(s string, size int64) (span, bool) {
	from, to, ok := strings.Cut(s, "-")
	if !ok {
		return span{}, false
	}
	from, to = textproto.TrimString(from), textproto.TrimString(to)
	if from == "" {
		n, ok := number(to)
		n = min(n, size)
		return span{size - n, n}, ok
	}
	first, ok := number(from)
	last := size - 1
	if ok && to != "" {
		if last, ok = number(to); last < first {
			ok = false
		}
	}
	if !ok {
		return span{}, false
	}
	if first >= size {
		return span{}, true
	}
	return span{first, min(last, size-1) - first + 1}, true
}

// number reads digits only.
func number(s string) (int64, bool) {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
