/**
 * The pieces of React Native and Expo that `expo.tsx` uses, so that it is type-checked here without their hundreds of
 * packages. In an app, the packages bring their own types: do not copy this file.
 */

declare module "react-native" {
  import type { ComponentType, ReactNode } from "react";

  interface Props {
    children?: ReactNode;
    style?: object;
    testID?: string;
  }
  interface Subscription {
    remove(): void;
  }
  export const AppState: {
    addEventListener(type: "change", listener: (state: "active" | "background" | "inactive") => void): Subscription;
  };
  export const Button: ComponentType<{ title: string; onPress: () => void; disabled?: boolean }>;
  export const KeyboardAvoidingView: ComponentType<Props & { behavior?: "height" | "padding" | "position" }>;
  export const Text: ComponentType<Props & { accessibilityRole?: "alert" }>;
  export const TextInput: ComponentType<{
    value: string;
    onChangeText: (text: string) => void;
    onSubmitEditing?: () => void;
    placeholder?: string;
    accessibilityLabel?: string;
    autoCapitalize?: "none";
    secureTextEntry?: boolean;
    multiline?: boolean;
    style?: object;
  }>;
  export function FlatList<Item>(props: {
    data: readonly Item[];
    inverted?: boolean;
    keyExtractor: (item: Item) => string;
    renderItem: (row: { item: Item }) => ReactNode;
    onEndReached?: () => void;
    style?: object;
  }): ReactNode;
}

declare module "@react-native-async-storage/async-storage" {
  const storage: {
    getItem(key: string): Promise<string | null>;
    setItem(key: string, value: string): Promise<void>;
    removeItem(key: string): Promise<void>;
  };
  export default storage;
}

declare module "@react-native-community/netinfo" {
  const NetInfo: { addEventListener(listener: (state: { isConnected: boolean | null }) => void): () => void };
  export default NetInfo;
}

declare module "react-native-url-polyfill/auto";
