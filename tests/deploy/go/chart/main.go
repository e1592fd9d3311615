// Draws a Helm chart as `helm template` does, where there is no helm: `chart NAME CHART NAMESPACE [KEY=VALUE...]`.
//
// Go's templates with the functions that Helm gives them (sprig's, include, toYaml); not Helm itself, which is some
// hundred packages of Kubernetes' clients. The schema of the values is not looked at.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := draw(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func draw(name, folder, namespace string, changes []string) error {
	var chart struct{ Name, Version, AppVersion string }
	values := map[string]any{}
	for file, target := range map[string]any{"Chart.yaml": &chart, "values.yaml": &values} {
		text, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil {
			return err
		}
		if err := yaml.Unmarshal(text, target); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	for _, change := range changes {
		path, text, _ := strings.Cut(change, "=")
		set(values, strings.Split(path, "."), text)
	}
	all := template.New(name).Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	functions["include"] = func(name string, data any) (string, error) {
		var out bytes.Buffer
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	functions["toYaml"] = func(value any) (string, error) {
		text, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(text), "\n"), err
	}
	files, err := filepath.Glob(filepath.Join(folder, "templates", "*"))
	if err != nil {
		return err
	}
	all.Funcs(functions)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if _, err := all.New(filepath.Base(file)).Parse(string(text)); err != nil {
			return err
		}
	}
	data := map[string]any{
		"Values":  values,
		"Chart":   chart,
		"Release": map[string]any{"Name": name, "Namespace": namespace, "Service": "Helm"},
	}
	for _, file := range files {
		if strings.HasPrefix(filepath.Base(file), "_") {
			continue
		}
		var out bytes.Buffer
		if err := all.ExecuteTemplate(&out, filepath.Base(file), data); err != nil {
			return err
		}
		fmt.Printf("---\n%s\n", strings.ReplaceAll(out.String(), "<no value>", ""))
	}
	return nil
}

// Numbers are numbers, as helm's `--set` takes them.
func set(values map[string]any, path []string, text string) {
	for _, name := range path[:len(path)-1] {
		inner, ok := values[name].(map[string]any)
		if !ok {
			inner = map[string]any{}
			values[name] = inner
		}
		values = inner
	}
	if number, err := strconv.ParseInt(text, 10, 64); err == nil {
		values[path[len(path)-1]] = number
	} else {
		values[path[len(path)-1]] = text
	}
}
