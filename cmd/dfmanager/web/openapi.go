package web

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"time"
)

type object = map[string]any

// document describes the routes as OpenAPI 3.1.
func document(table []route, version string) ([]byte, error) {
	paths := map[string]object{}
	for i := range table {
		r := &table[i]
		if paths[r.path] == nil {
			paths[r.path] = object{}
		}
		paths[r.path][strings.ToLower(r.method)] = r.operation()
	}
	return json.MarshalIndent(object{
		"openapi": "3.1.0",
		"info":    object{"title": "dfmanager", "version": version, "description": "Clusters, users, tokens and preheat jobs of dfsnapshotter."},
		"paths":   paths,
		"components": object{
			"schemas": object{"Error": schema(reflect.TypeOf(problem{}))},
			"securitySchemes": object{
				"session": object{"type": "apiKey", "in": "cookie", "name": "dfmanager"},
				"token":   object{"type": "http", "scheme": "bearer"},
				"basic":   object{"type": "http", "scheme": "basic"},
				"header":  object{"type": "apiKey", "in": "header", "name": tokenHeader},
			},
		},
	}, "", " ")
}

func (r *route) operation() object {
	op := object{"summary": r.summary, "responses": r.responses(), "security": r.security()}
	var parameters []object
	for _, name := range r.parameters() {
		parameters = append(parameters, object{"name": name, "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	query := r.query
	if r.page {
		query = append([]string{"after", "limit"}, query...)
	}
	for _, name := range query {
		kind := "string"
		if r.page && (name == "after" || name == "limit") {
			kind = "integer"
		}
		parameters = append(parameters, object{"name": name, "in": "query", "schema": object{"type": kind}})
	}
	if parameters != nil {
		op["parameters"] = parameters
	}
	if r.in != nil {
		op["requestBody"] = object{"required": true, "content": content(schema(reflect.TypeOf(r.in)))}
	}
	if !r.access.public {
		op["x-role"], op["x-scope"] = r.access.role, r.access.scope
	}
	return op
}

func (r *route) security() []object {
	switch {
	case r.access.public:
		return []object{}
	case r.access.scope == "":
		return []object{{"session": []string{}}}
	}
	return []object{{"session": []string{}}, {"token": []string{}}, {"basic": []string{}}, {"header": []string{}}}
}

func (r *route) responses() object {
	status := r.status
	switch {
	case r.out == nil:
		status = 204
	case status == 0:
		status = 200
	}
	good := object{"description": "It is done."}
	if r.out != nil {
		good["content"] = content(schema(reflect.TypeOf(r.out)))
	}
	return object{
		strconv.Itoa(status): good,
		"default":            object{"description": "It is not, and this is why.", "content": content(object{"$ref": "#/components/schemas/Error"})},
	}
}

func content(s object) object { return object{"application/json": object{"schema": s}} }

var timeType, rawType = reflect.TypeFor[time.Time](), reflect.TypeFor[raw]()

// schema describes a type as encoding/json writes it.
func schema(t reflect.Type) object {
	switch t {
	case timeType:
		return object{"type": "string", "format": "date-time"}
	case rawType:
		return object{"type": "object"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return object{"anyOf": []object{schema(t.Elem()), {"type": "null"}}}
	case reflect.Struct:
		properties := object{}
		var required []string
		fields(t, properties, &required)
		s := object{"type": "object", "properties": properties}
		if required != nil {
			s["required"] = required
		}
		return s
	case reflect.Slice, reflect.Array:
		return object{"type": "array", "items": schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": schema(t.Elem())}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Int, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}
	}
	return object{}
}

func fields(t reflect.Type, properties object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			fields(f.Type, properties, required)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		properties[name] = schema(f.Type)
		if f.Type.Kind() != reflect.Pointer && options != "omitempty" {
			*required = append(*required, name)
		}
	}
}
