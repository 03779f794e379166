import type { InputType } from './types.ts'

/**
 * An input of an action. The code applies `fallback`, because a default in action.yml would override the config file.
 */
export interface InputSpec<T> {
  type: InputType<NonNullable<T>>
  description: string
  required: boolean
  fallback?: string
}

export interface ActionSpec {
  name: string
  title: string
  description: string
  icon: string
  /** Whether the action has a post step. */
  post?: boolean
  inputs: Record<string, InputSpec<unknown>>
  outputs: Record<string, string>
}

type Camel<S extends string> = S extends `${infer Head}-${infer Tail}` ? `${Head}${Capitalize<Camel<Tail>>}` : S

/** The values of an action's inputs, by camel-case name. */
export type InputsOf<S extends ActionSpec> = {
  [K in keyof S['inputs'] & string as Camel<K>]: S['inputs'][K] extends InputSpec<infer T> ? T : never
}

export type OutputsOf<S extends ActionSpec> = keyof S['outputs'] & string

export function required<T>(type: InputType<T & {}>, description: string): InputSpec<T> {
  return { type: type as InputType<NonNullable<T>>, description, required: true }
}

export function optional<T>(type: InputType<T & {}>, description: string): InputSpec<T | undefined> {
  return { type: type as InputType<NonNullable<T>>, description, required: false }
}

export function defaulted<T>(type: InputType<T & {}>, fallback: string, description: string): InputSpec<T> {
  return { type: type as InputType<NonNullable<T>>, description, required: false, fallback }
}

export function defineAction<const S extends ActionSpec>(spec: S): S {
  return spec
}

export function camel(name: string): string {
  return name.replace(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
}
