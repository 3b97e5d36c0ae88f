package install

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// document is a TOML file that is edited as text: what an edit is not about,
// comments and blanks included, stays as it is.
type document struct{ text []byte }

// statement is a key with its value, or the heading of a table.
type statement struct {
	kind       unstable.Kind
	path       []string // of the table and, of a value, the key
	start, end int      // of a value: the key, the sign and the value; of a heading: its line, with the newline
	name       string   // of a value: the key as it is written
	last       int      // of an array: where its last element ends, 0 if it has none
}

// statements lists what stands in the file, from top to bottom.
func (d *document) statements() (all []statement, err error) {
	var p unstable.Parser
	p.Reset(d.text)
	var table []string
	for p.NextExpression() {
		n := p.Expression()
		var keys []string
		first, last := -1, 0
		for it := n.Key(); it.Next(); {
			k := it.Node()
			keys = append(keys, string(k.Data))
			if first < 0 {
				first = int(k.Raw.Offset)
			}
			last = int(k.Raw.Offset + k.Raw.Length)
		}
		s := statement{kind: n.Kind}
		switch n.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = keys
			s.path, s.start, s.end = keys, d.lineStart(first), d.lineEnd(last)
		case unstable.KeyValue:
			s.path = append(slices.Clone(table), keys...)
			s.start, s.end, s.name = int(n.Raw.Offset), int(n.Raw.Offset+n.Raw.Length), string(d.text[first:last])
			s.last = lastElement(n.Value())
		default:
			continue
		}
		all = append(all, s)
	}
	return all, p.Error()
}

func lastElement(array *unstable.Node) (end int) {
	if array.Kind != unstable.Array {
		return 0
	}
	for it := array.Children(); it.Next(); {
		if n := it.Node(); n.Kind != unstable.Comment {
			end = int(n.Raw.Offset + n.Raw.Length)
		}
	}
	return end
}

func (d *document) lineStart(at int) int { return bytes.LastIndexByte(d.text[:at], '\n') + 1 }

func (d *document) lineEnd(at int) int {
	if n := bytes.IndexByte(d.text[at:], '\n'); n >= 0 {
		return at + n + 1
	}
	return len(d.text)
}

// replace puts text in the place of what is from start to end.
func (d *document) replace(start, end int, text string) {
	d.text = slices.Concat(d.text[:start], []byte(text), d.text[end:])
}

// set gives a key of a table, nil for the file's own keys, a value, which is
// TOML. It adds the table at the end if there is none.
func (d *document) set(table []string, key, value string) error {
	all, err := d.statements()
	if err != nil {
		return err
	}
	path := append(slices.Clone(table), key)
	for _, s := range all {
		if s.kind == unstable.KeyValue && slices.Equal(s.path, path) {
			d.replace(s.start, s.end, s.name+" = "+value)
			return nil
		}
	}
	line := key + " = " + value + "\n"
	if len(table) == 0 {
		at := 0
		for _, s := range all { // behind the version, if that is there
			if s.kind == unstable.KeyValue && slices.Equal(s.path, []string{"version"}) {
				at = d.lineEnd(s.end)
			}
		}
		d.insert(at, line)
		return nil
	}
	for i, s := range all {
		if s.kind == unstable.Table && slices.Equal(s.path, table) {
			d.extend(all[i:], line)
			return nil
		}
	}
	d.insert(len(d.text), "\n["+dotted(table)+"]\n  "+line)
	return nil
}

// extend adds a line to a table, which all begins with: behind its last key.
func (d *document) extend(all []statement, line string) {
	start := d.text[all[0].start:all[0].end]
	indent, end := string(start[:bytes.IndexByte(start, '[')])+"  ", all[0].end
	for _, s := range all[1:] {
		if s.kind != unstable.KeyValue {
			break
		}
		indent, end = string(d.text[d.lineStart(s.start):s.start]), d.lineEnd(s.end)
	}
	d.insert(end, indent+line)
}

// insert puts lines where a line begins, or at the end.
func (d *document) insert(at int, lines string) {
	if at > 0 && d.text[at-1] != '\n' {
		lines = "\n" + lines
	}
	d.replace(at, at, lines)
}

// add puts a string behind the others of a list of the file's own keys, which
// is made of def and the string if it is not there.
func (d *document) add(key, value string, def []string) error {
	all, err := d.statements()
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.kind == unstable.KeyValue && slices.Equal(s.path, []string{key}) && s.last > 0 {
			d.insertAt(s.last, ", "+quote(value))
			return nil
		}
	}
	return d.set(nil, key, list(append(slices.Clone(def), value)))
}

func (d *document) insertAt(at int, text string) { d.replace(at, at, text) }

// before returns where lines go that are to stand before a heading: above the
// comment that belongs to it.
func (d *document) before(s statement) int {
	at := s.start
	for at > 0 {
		line := d.lineStart(at - 1)
		if !bytes.HasPrefix(bytes.TrimSpace(d.text[line:at]), []byte("#")) {
			break
		}
		at = line
	}
	return at
}

// tree returns what the file says.
func (d *document) tree() (map[string]any, error) {
	var all map[string]any
	if err := toml.Unmarshal(d.text, &all); err != nil {
		return nil, err
	}
	return all, nil
}

// at returns what a tree has at a path, nil if nothing.
func at(tree map[string]any, path ...string) any {
	var v any = tree
	for _, key := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

// texts returns the strings of a list in a tree.
func texts(v any) (all []string) {
	items, _ := v.([]any)
	for _, item := range items {
		if s, ok := item.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

// quote writes a string as TOML.
func quote(s string) string {
	if strings.ContainsAny(s, "'\n\r\t\\") {
		return strconv.Quote(s)
	}
	return "'" + s + "'"
}

// list writes a list of strings as TOML.
func list(all []string) string {
	quoted := make([]string, len(all))
	for i, s := range all {
		quoted[i] = quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// dotted writes a key as TOML.
func dotted(path []string) string {
	parts := make([]string, len(path))
	for i, p := range path {
		parts[i] = p
		if strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" || p == "" {
			parts[i] = quote(p)
		}
	}
	return strings.Join(parts, ".")
}

// literal writes a value that was read from TOML as TOML.
func literal(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return quote(v), nil
	case bool, int64, float64:
		return fmt.Sprint(v), nil
	case []any:
		var parts []string
		for _, item := range v {
			text, err := literal(item)
			if err != nil {
				return "", err
			}
			parts = append(parts, text)
		}
		return "[" + strings.Join(parts, ", ") + "]", nil
	case map[string]any:
		var parts []string
		for _, key := range sorted(v) {
			text, err := literal(v[key])
			if err != nil {
				return "", err
			}
			parts = append(parts, dotted([]string{key})+" = "+text)
		}
		return "{" + strings.Join(parts, ", ") + "}", nil
	}
	return "", fmt.Errorf("%v is no value that can be written", v)
}
