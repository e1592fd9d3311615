{{/* The name of everything here; a pod's is this with a number behind it. */}}
{{- define "loghouse.name" -}}
{{- if contains "loghouse" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-loghouse" (.Release.Name | trunc 31 | trimSuffix "-") }}{{ end }}
{{- end }}

{{/* What selects the pods. */}}
{{- define "loghouse.selector" -}}
app.kubernetes.io/name: loghouse
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "loghouse.labels" -}}
{{ include "loghouse.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* The addresses of all nodes, as a list of YAML. */}}
{{- define "loghouse.join" -}}
{{- $name := include "loghouse.name" . -}}
{{- $all := list -}}
{{- range $number := until (int .Values.replicas) -}}
{{- $all = append $all (printf "'%s-%d.%s-nodes.%s.svc:8400'" $name $number $name $.Release.Namespace) -}}
{{- end -}}
[{{ join ", " $all }}]
{{- end }}
