package console

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// size is a number of bytes for people.
func size(n int64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if f < 1000 {
			break
		}
		f, unit = f/1024, u
	}
	switch {
	case unit == "B" || f >= 99.95:
		return fmt.Sprintf("%.0f %s", f, unit)
	case f >= 9.995:
		return fmt.Sprintf("%.1f %s", f, unit)
	}
	return fmt.Sprintf("%.2f %s", f, unit)
}

// took is a time span for people.
func took(d time.Duration) string {
	switch {
	case d <= 0:
		return "0 s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// short is a digest by which people tell one from another.
func short(digest string) string {
	if algorithm, hex, ok := strings.Cut(digest, ":"); ok && len(hex) > 12 {
		return algorithm + ":" + hex[:12]
	}
	return digest
}

// dict gives a template what it is told, by name.
func dict(pairs ...any) (map[string]any, error) {
	m := map[string]any{}
	for len(pairs) >= 2 {
		name, ok := pairs[0].(string)
		if !ok {
			return nil, errors.New("dict: a name is no string")
		}
		m[name], pairs = pairs[1], pairs[2:]
	}
	return m, nil
}
