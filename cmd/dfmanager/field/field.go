// Package field has the error that says what is wrong with which of the values
// that somebody typed into a form or sent.
package field

import (
	"maps"
	"slices"
	"strings"
	"unicode"
)

// Errors says, by the name of a field, what its value must be.
type Errors map[string]string

// Error lists all of them.
func (e Errors) Error() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(e)) {
		all = append(all, name+" "+e[name])
	}
	return strings.Join(all, "; ")
}

// Check notes what is wrong with a field; nil: nothing.
func (e Errors) Check(name string, err error) {
	if err != nil {
		e[name] = err.Error()
	}
}

// Err returns e, or nil if nothing is wrong.
func (e Errors) Err() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// Printable reports whether s can be shown, and sent as a header.
func Printable(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
