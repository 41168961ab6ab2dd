{{/* Labels of every object. */}}
{{- define "unimrg.labels" -}}
app.kubernetes.io/name: unimrg-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Labels by which the operator's pods are selected; they never change. */}}
{{- define "unimrg.selector" -}}
app.kubernetes.io/name: unimrg-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The full name of an image: (list . IMAGE). A digest wins over a tag, and no tag is the chart's version. */}}
{{- define "unimrg.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 }}
{{- with $root.Values.global.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Namespaces with jobs, as a JSON list. */}}
{{- define "unimrg.namespaces" -}}
{{- .Values.watchNamespaces | default (list .Release.Namespace) | uniq | toJson }}
{{- end }}

{{/* The site profile: what values say of it, and the images of this chart where they say nothing. */}}
{{- define "unimrg.profile" -}}
{{- $profile := deepCopy .Values.siteProfile }}
{{- if not $profile.image }}{{ $_ := set $profile "image" (include "unimrg.image" (list . .Values.images.trainer)) }}{{ end }}
{{- if not $profile.imagePullSecrets }}{{ $_ := set $profile "imagePullSecrets" .Values.global.imagePullSecrets }}{{ end }}
{{- $profile | toYaml }}
{{- end }}
